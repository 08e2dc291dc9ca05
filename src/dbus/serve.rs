//! The loop of one connection.

use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use zbus::export::futures_core::Stream;
use zbus::message::Type;
use zbus::{MatchRule, Message, MessageStream};

use super::peer::{Peer, locked};
use super::tree::News;
use super::{Shared, call};
use crate::api::Error;

/// Calls that wait to be looked at; then the socket is not read any more, which holds the peer back.
const CALLS_QUEUED: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");
/// Signals written at a time.
const NEWS_AT_ONCE: usize = 256;
/// How long a peer may take to read what is written to it.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The method calls that come over a connection, from now on.
pub(super) async fn calls(peer: &Peer) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder().msg_type(Type::MethodCall).build()?;
    MessageStream::for_match_rule(rule, peer.connection(), Some(CALLS_QUEUED)).await
}

/// Serves a connection until it ends: by the peer's going, or by its not keeping up.
pub(super) async fn serve(shared: &Arc<Shared>, peer: &Arc<Peer>, mut calls: MessageStream, mut news: Receiver<News>) {
    // What is being answered ends with the connection: nobody is there to read it.
    let mut answers = JoinSet::new();
    loop {
        tokio::select! {
            message = poll_fn(|context| Pin::new(&mut calls).poll_next(context)) => {
                let Some(Ok(message)) = message else { return };
                match peer.admit(&message.header()) {
                    Some(in_hand) => {
                        let (shared, peer) = (Arc::clone(shared), Arc::clone(peer));
                        answers.spawn(async move { call::answer(&shared, &peer, in_hand, &message).await });
                    }
                    None => {
                        let refusal = Error::TooManyRequests("too many calls at once".to_owned());
                        call::send(peer, &message.header(), Err(Box::new(refusal))).await;
                    }
                }
            }
            Some(_) = answers.join_next() => {}
            first = news.recv() => {
                let signals = match first {
                    Ok(first) => batch(peer, first, &mut news),
                    // Behind a bus are others than the one that was slow: they are told of everything again.
                    Err(RecvError::Lagged(_)) if peer.is_bus() => {
                        news = shared.news.subscribe();
                        locked(&shared.tree).announce_all()
                    }
                    Err(RecvError::Lagged(_) | RecvError::Closed) => return,
                };
                let sent = tokio::time::timeout(PATIENCE, peer.connection().send_all(&signals)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
            () = peer.connection().closed() => return,
        }
    }
}

/// The signals at hand that this peer is to hear.
fn batch(peer: &Peer, first: News, news: &mut Receiver<News>) -> Vec<Message> {
    let mut signals = Vec::new();
    let mut next = Some(first);
    while let Some(item) = next {
        match item {
            News::Manager(signal) => signals.push(signal),
            News::Objects(signal) if peer.hears_of_objects() => signals.push(signal),
            News::Objects(_) => {}
        }
        next = if signals.len() < NEWS_AT_ONCE { news.try_recv().ok() } else { None };
    }
    signals
}
