//! The worker's end of the conversation, over the life of more than one node plugin.
//!
//! The worker inherits a socket pair from the node plugin that starts it. Beside it comes a listening socket in the
//! node plugin's state directory, where only root gets at it; a node plugin that finds the worker after a restart
//! connects there. The newest one is who is listened to.

use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::net::UnixListener;

use super::handover::{Channel, Error, FromWorker, ToWorker, VERSION};

/// Tells one node plugin from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller(u64);

/// See the module.
#[derive(Debug)]
pub struct Line {
    /// `None` while no node plugin runs.
    channel: Option<Channel>,
    caller: Caller,
    /// `None` where none was handed over: then the first node plugin is the last.
    listener: Option<UnixListener>,
}

impl Line {
    /// Goes on talking over `channel`, and listens for the next node plugin; within a tokio runtime.
    ///
    /// # Errors
    /// A socket that cannot be used in this runtime.
    pub fn new(channel: Channel, listener: Option<std::os::unix::net::UnixListener>) -> std::io::Result<Line> {
        let listener = match listener {
            Some(listener) => {
                listener.set_nonblocking(true)?;
                Some(UnixListener::from_std(listener)?)
            }
            None => None,
        };
        Ok(Line { channel: Some(channel), caller: Caller(0), listener })
    }

    /// Who is listened to.
    pub fn caller(&self) -> Caller {
        self.caller
    }

    /// Who would hear what is sent; `None` while no node plugin runs.
    pub fn connected(&self) -> Option<Caller> {
        self.channel.is_some().then_some(self.caller)
    }

    /// The next message of whichever node plugin there is, and the descriptor that rode on it. May be cancelled and called again. Never ends where none
    /// comes.
    pub async fn receive(&mut self) -> (ToWorker, Option<OwnedFd>) {
        loop {
            let heard = tokio::select! {
                biased;
                caller = accept(self.listener.as_ref()) => {
                    match caller {
                        Ok(socket) => self.take(socket).await,
                        // Such as too many open descriptors; the caller tries again.
                        Err(error) => {
                            tracing::warn!("a node plugin cannot be heard: {error}");
                            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                        }
                    }
                    continue;
                }
                heard = hear(&mut self.channel) => heard,
            };
            match heard {
                Ok(message) => return message,
                Err(Error::Closed) => tracing::warn!("the node plugin is gone; its mount is served on"),
                Err(error) => tracing::error!(%error, "the node plugin's words cannot be understood"),
            }
            self.channel = None;
        }
    }

    /// Answers the node plugin, if it is still there.
    pub async fn send(&mut self, message: &FromWorker) {
        if let Some(channel) = &self.channel
            && channel.send(message).await.is_err()
        {
            self.channel = None;
        }
    }

    /// As [`Line::send`], with a descriptor. False where nobody heard it.
    pub async fn send_with(&mut self, message: &FromWorker, rider: BorrowedFd<'_>) -> bool {
        let Some(channel) = &self.channel else { return false };
        let sent = channel.send_with(message, rider).await.is_ok();
        if !sent {
            self.channel = None;
        }
        sent
    }

    /// Listens to a node plugin from now on, if it is one.
    async fn take(&mut self, socket: tokio::net::UnixStream) {
        let allowed = |uid: u32| uid == 0 || nix::unistd::Uid::effective().as_raw() == uid;
        if !socket.peer_cred().is_ok_and(|peer| allowed(peer.uid())) {
            tracing::warn!("somebody who is not the node plugin has connected, and is not listened to");
            return;
        }
        let channel = match socket.into_std().and_then(Channel::new) {
            Ok(channel) => channel,
            Err(error) => return tracing::warn!("a node plugin cannot be heard: {error}"),
        };
        if channel.send(&FromWorker::Ready { version: VERSION.into() }).await.is_ok() {
            tracing::info!("a node plugin has found this worker");
            self.channel = Some(channel);
            self.caller.0 += 1;
        }
    }
}

async fn accept(listener: Option<&UnixListener>) -> std::io::Result<tokio::net::UnixStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn hear(channel: &mut Option<Channel>) -> Result<(ToWorker, Option<OwnedFd>), Error> {
    match channel {
        Some(channel) => channel.receive().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[tokio::test]
    async fn the_newest_node_plugin_is_listened_to() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("sock");
        let listener = UnixListener::bind(&at).unwrap();
        let (first, inherited) = UnixStream::pair().unwrap();
        let first = Channel::new(first).unwrap();
        let mut line = Line::new(Channel::new(inherited).unwrap(), Some(listener)).unwrap();
        let earlier = line.caller();
        first.send(&ToWorker::Ping).await.unwrap();
        assert!(matches!(line.receive().await, (ToWorker::Ping, _)));
        drop(first);

        for _ in 0..2 {
            let mut next = Channel::new(UnixStream::connect(&at).unwrap()).unwrap();
            next.send(&ToWorker::Usage).await.unwrap();
            assert!(matches!(line.receive().await, (ToWorker::Usage, _)));
            assert_ne!(line.caller(), earlier);
            line.send(&FromWorker::Pong).await;
            assert!(matches!(next.receive().await.unwrap().0, FromWorker::Ready { .. }));
            assert_eq!(next.receive::<FromWorker>().await.unwrap().0, FromWorker::Pong);
            // The second comes while the first is still there.
            std::mem::forget(next);
        }
    }
}
