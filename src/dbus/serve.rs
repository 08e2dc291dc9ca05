//! The loop of one connection.

use std::future::{pending, poll_fn};
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
use super::{Shared, call};
use crate::api::Error;

/// Calls that wait to be looked at; then the socket is not read any more, which holds the peer back.
const CALLS_QUEUED: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");
/// Signals written at a time.
const SIGNALS_AT_ONCE: usize = 256;
/// How long a peer may take to read what is written to it.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The method calls that come over a connection, from now on.
pub(super) async fn calls(peer: &Peer) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder().msg_type(Type::MethodCall).build()?;
    MessageStream::for_match_rule(rule, peer.connection(), Some(CALLS_QUEUED)).await
}

/// Serves a connection until it ends: by the peer's going, or by its not keeping up.
pub(super) async fn serve(shared: &Arc<Shared>, peer: &Arc<Peer>, mut calls: MessageStream) {
    let mut signals: Option<Receiver<Message>> = None;
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
            subscription = peer.subscription(), if signals.is_none() => signals = subscription,
            first = next_signal(&mut signals) => {
                let sending = match first {
                    Ok(first) => batch(first, signals.as_mut()),
                    // Behind a bus are others than the one that was slow: they are told of everything again.
                    Err(RecvError::Lagged(_)) if peer.is_bus() => {
                        signals = Some(shared.signals.subscribe());
                        locked(&shared.tree).announce_all()
                    }
                    Err(RecvError::Lagged(_) | RecvError::Closed) => return,
                };
                let sent = tokio::time::timeout(PATIENCE, peer.connection().send_all(&sending)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
            () = peer.connection().closed() => return,
        }
    }
}

/// The next signal for a peer that hears them; nothing ever for one that does not.
async fn next_signal(signals: &mut Option<Receiver<Message>>) -> Result<Message, RecvError> {
    match signals {
        Some(signals) => signals.recv().await,
        None => pending().await,
    }
}

/// The signals at hand, as far as they are written in one go.
fn batch(first: Message, rest: Option<&mut Receiver<Message>>) -> Vec<Message> {
    let mut signals = vec![first];
    if let Some(rest) = rest {
        signals.extend(std::iter::from_fn(|| rest.try_recv().ok()).take(SIGNALS_AT_ONCE - 1));
    }
    signals
}
