//! A method call on its way to an answer: found, checked against the table, handed to its interface.
//!
//! Not zbus's object server: that keeps a copy of the whole tree in every connection, and each command of the command
//! line is a connection. Here all connections look into the one [`Tree`], and a new one costs nothing but its
//! greeting however many processes there are.

use std::collections::{BTreeMap, HashMap};

use tokio::sync::watch;
use zbus::message::{Body, Flags, Header};
use zbus::wire::{DynamicDeserialize, DynamicType};
use zbus::{BoxDBusError, DBusError, Message, OwnedObjectPath, Variant, fdo};

use super::authority::{self, Action};
use super::peer::{InHand, Peer, locked};
use super::tree::{Audience, Object, Properties};
use super::{Shared, interfaces, objects};
use crate::api::{Error, names};
use crate::daemon::{Caller, Reply, What};

/// What a call comes to.
pub(super) type Answer = Result<Message, BoxDBusError>;

/// A call and what it takes to answer it.
pub(super) struct Call<'c> {
    pub(super) shared: &'c Shared,
    pub(super) peer: &'c Peer,
    pub(super) in_hand: &'c InHand,
    pub(super) header: &'c Header<'c>,
    pub(super) body: &'c Body,
    /// The method's name.
    pub(super) member: &'c str,
}

/// Answers a call on its connection. Whether the answer could be sent shows to the connection's reader, not here.
pub(super) async fn answer(shared: &Shared, peer: &Peer, in_hand: InHand, message: &Message) {
    shared.in_hand.send_modify(|count| *count += 1);
    let _counted = Counted(&shared.in_hand);
    let header = message.header();
    let answer = match header.member() {
        Some(member) => {
            let body = message.body();
            let call = Call { shared, peer, in_hand: &in_hand, header: &header, body: &body, member: member.as_str() };
            call.dispatch().await
        }
        None => Err(fdo::Error::UnknownMethod("the call names no method".to_owned()).into()),
    };
    send(peer, &header, answer).await;
}

/// A call that counts as being answered until this is dropped.
struct Counted<'c>(&'c watch::Sender<usize>);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Sends an answer, if the caller wants one.
pub(super) async fn send(peer: &Peer, header: &Header<'_>, answer: Answer) {
    if header.primary().flags().contains(Flags::NO_REPLY_EXPECTED) {
        return;
    }
    let answer = answer.or_else(|error| error.create_reply(header));
    let sent = match answer {
        Ok(message) if !message.data().fds().is_empty() => match peer.connection().send(&message).await {
            Err(zbus::Error::Unsupported) => {
                let error = fdo::Error::NotSupported("this connection cannot carry file descriptors".to_owned());
                match error.create_reply(header) {
                    Ok(error) => peer.connection().send(&error).await,
                    Err(error) => Err(error),
                }
            }
            sent => sent,
        },
        Ok(message) => peer.connection().send(&message).await,
        Err(error) => Err(error),
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "cannot answer a call");
    }
}

impl Call<'_> {
    async fn dispatch(&self) -> Answer {
        let interface = self.header.interface().map(|interface| interface.as_str());
        if interface == Some("org.freedesktop.DBus.Peer") {
            return self.peer_method();
        }
        if interface == Some("org.freedesktop.DBus") && !self.peer.is_bus() {
            return self.bus_method();
        }
        let Some(path) = self.header.path() else {
            return Err(fdo::Error::UnknownObject("the call names no object".to_owned()).into());
        };
        let (object, children) = {
            let tree = locked(&self.shared.tree);
            (tree.find(path), tree.children(path.as_str()))
        };
        if object.is_none() && children.is_none() {
            return Err(fdo::Error::UnknownObject(format!("there is no object `{path}`")).into());
        }
        // A call may leave the interface out; an object's own methods come first then.
        let own = object.filter(|object| interface.is_none_or(|interface| interface == object.interface()));
        let method = own.and_then(|object| {
            let methods = interfaces::methods(object);
            methods.iter().find(|(name, ..)| *name == self.member).map(|method| (object, method))
        });
        if let Some((object, (_, takes, _))) = method {
            self.expect(takes)?;
            return objects::call(self, object).await;
        }
        let standard = |name: &str| interface.is_none_or(|interface| interface == name);
        match (self.member, object) {
            ("Introspect", _) if standard("org.freedesktop.DBus.Introspectable") => {
                self.expect("")?;
                self.peer.subscribe(&self.shared.signals);
                self.reply(&interfaces::document(object, &children.unwrap_or_default()))
            }
            ("Get" | "GetAll" | "Set", Some(object)) if standard("org.freedesktop.DBus.Properties") => {
                self.peer.subscribe(&self.shared.signals);
                self.properties(object).await
            }
            ("GetManagedObjects", Some(Object::Manager)) if standard("org.freedesktop.DBus.ObjectManager") => {
                self.expect("")?;
                self.peer.subscribe(&self.shared.signals);
                self.managed_objects().await
            }
            _ => {
                let interface = interface.unwrap_or("any interface");
                let what = format!("`{path}` has no method `{}` of {interface}", self.member);
                Err(fdo::Error::UnknownMethod(what).into())
            }
        }
    }

    fn peer_method(&self) -> Answer {
        match self.member {
            "Ping" => self.reply(&()),
            "GetMachineId" => match std::fs::read_to_string("/etc/machine-id") {
                Ok(id) => self.reply(&id.trim_end()),
                Err(error) => Err(fdo::Error::Failed(format!("cannot read `/etc/machine-id`: {error}")).into()),
            },
            other => Err(fdo::Error::UnknownMethod(format!("no method `{other}`")).into()),
        }
    }

    /// What tools like busctl(1) ask of a message bus before anything else, so that they can be pointed at a private
    /// socket. Nothing is routed here: the only other one is the daemon. Its messages have no sender on a private socket,
    /// so no name is said to have an owner that they could be expected from.
    fn bus_method(&self) -> Answer {
        match self.member {
            "Hello" => self.reply(&":1.1"),
            "AddMatch" => {
                self.peer.subscribe(&self.shared.signals);
                self.reply(&())
            }
            "RemoveMatch" => self.reply(&()),
            "NameHasOwner" => self.reply(&(self.arguments::<String>()? == names::BUS_NAME)),
            other => Err(fdo::Error::UnknownMethod(format!("a private socket has no `{other}`")).into()),
        }
    }

    async fn properties(&self, object: Object) -> Answer {
        let named = |interface: &str| match interface == object.interface() || interface.is_empty() {
            true => Ok(()),
            false => Err(fdo::Error::UnknownInterface(format!("no interface `{interface}` here"))),
        };
        match self.member {
            "Get" => {
                self.expect("ss")?;
                let (interface, property): (String, String) = self.arguments()?;
                named(&interface)?;
                let readable = self.readable(object).await?;
                if let Some((_, value)) = readable.iter().find(|(name, _)| *name == property) {
                    return self.reply(value);
                }
                let all = locked(&self.shared.tree).properties(object, Audience::Owner).unwrap_or_default();
                if all.iter().any(|(name, _)| *name == property) {
                    return Err(Error::AccessDenied(format!("`{property}` is for the owner only")).into_bus());
                }
                Err(fdo::Error::UnknownProperty(format!("no property `{property}` here")).into())
            }
            "GetAll" => {
                self.expect("s")?;
                let interface: String = self.arguments()?;
                named(&interface)?;
                let readable = self.readable(object).await?;
                let all: BTreeMap<&str, &Variant<'_>> = readable.iter().map(|(name, value)| (*name, value)).collect();
                self.reply(&all)
            }
            _ => Err(fdo::Error::PropertyReadOnly("properties are set by methods here".to_owned()).into()),
        }
    }

    /// The properties of an object that this caller may read.
    async fn readable(&self, object: Object) -> Result<Properties, BoxDBusError> {
        let audience = match object {
            Object::Job(id) => {
                let caller = self.caller().await.map_err(Error::into_bus)?;
                let tree = locked(&self.shared.tree);
                let follows = tree.job(id).is_some_and(|job| authority::may_follow(&caller, job));
                if follows { Audience::Owner } else { Audience::Everybody }
            }
            _ => Audience::Everybody,
        };
        let properties = locked(&self.shared.tree).properties(object, audience);
        properties.ok_or_else(|| fdo::Error::UnknownObject("the object has just gone".to_owned()).into())
    }

    async fn managed_objects(&self) -> Answer {
        let caller = self.caller().await.map_err(Error::into_bus)?;
        let objects: Vec<(OwnedObjectPath, &str, Properties)> = {
            let tree = locked(&self.shared.tree);
            let describe = |object: Object| {
                let audience = match object {
                    Object::Job(id) if tree.job(id).is_some_and(|job| authority::may_follow(&caller, job)) => {
                        Audience::Owner
                    }
                    _ => Audience::Everybody,
                };
                Some((tree.path(object)?, object.interface(), tree.properties(object, audience)?))
            };
            tree.objects().filter_map(describe).collect()
        };
        let properties = |properties: &'_ Properties| {
            properties.iter().map(|(name, value)| (*name, value.clone())).collect::<BTreeMap<_, _>>()
        };
        let all: HashMap<&OwnedObjectPath, BTreeMap<&str, BTreeMap<&str, Variant<'_>>>> = objects
            .iter()
            .map(|(path, interface, values)| (path, BTreeMap::from([(*interface, properties(values))])))
            .collect();
        self.reply(&all)
    }

    /// Refuses a call whose arguments are not of these types.
    fn expect(&self, takes: &str) -> Result<(), BoxDBusError> {
        let given = self.body.signature().to_string_no_parens();
        if given == takes {
            return Ok(());
        }
        let what = format!("`{}` takes `{takes}`, not `{given}`", self.member);
        Err(fdo::Error::InvalidArgs(what).into())
    }

    /// The arguments.
    pub(super) fn arguments<'m, T: DynamicDeserialize<'m>>(&'m self) -> Result<T, BoxDBusError> {
        self.body.deserialize().map_err(|error| {
            let what = format!("cannot read the arguments of `{}`: {error}", self.member);
            BoxDBusError::from(fdo::Error::InvalidArgs(what))
        })
    }

    /// An answer with this in it.
    pub(super) fn reply<B: serde::Serialize + DynamicType>(&self, body: &B) -> Answer {
        Ok(Message::method_return(self.header).build(body)?)
    }

    /// Who calls.
    pub(super) async fn caller(&self) -> Result<Caller, Error> {
        let caller = self.peer.caller(self.header).await?;
        if self.in_hand.count_for(caller.uid.0) {
            return Ok(caller);
        }
        Err(Error::TooManyRequests("too many calls of this user at once".to_owned()))
    }

    /// Asks the daemon; when it refuses because of who asks, asks polkit and then the daemon again.
    pub(super) async fn ask<T>(&self, make: impl Fn(Reply<T>) -> What) -> Result<T, Error> {
        self.ask_as(Action::of(self.member), make).await
    }

    /// As [`Call::ask`], with another action above the refusal than the method's own.
    pub(super) async fn ask_as<T>(&self, action: Option<Action>, make: impl Fn(Reply<T>) -> What) -> Result<T, Error> {
        let caller = self.caller().await?;
        let refusal = match self.shared.handle.ask(&caller, &make).await {
            Err(Error::AccessDenied(refusal)) => refusal,
            answer => return answer,
        };
        if !self.granted(action).await {
            return Err(Error::AccessDenied(refusal));
        }
        self.shared.handle.ask(&Caller { privileged: true, ..caller }, &make).await
    }

    /// Whether polkit grants the caller this action.
    pub(super) async fn granted(&self, action: Option<Action>) -> bool {
        match (action, self.peer.asker(self.header)) {
            (Some(action), Some(asker)) => self.shared.polkit.privilege(asker, action).await,
            _ => false,
        }
    }

    /// A receiver that is told whenever the tree has changed.
    pub(super) fn turns(&self) -> watch::Receiver<u64> {
        self.shared.turns.subscribe()
    }
}

/// An [`Error`] as handlers return it.
pub(super) trait IntoBus {
    fn into_bus(self) -> BoxDBusError;
}

impl IntoBus for Error {
    fn into_bus(self) -> BoxDBusError {
        Box::new(self)
    }
}
