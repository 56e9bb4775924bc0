//! An agent's connection to its host: dialling, and one TLS stream at a time.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use kumi_core::agent_message::{ANSWER, UNPROVED};
use kumi_core::frame::FRAME_MAX;
use kumi_core::{Decoder, FrameError, ToAgent};
use rustls::ClientConfig;

use crate::epoll::{Bell, Epoll, READ, WRITE};
use crate::stream::{Heard, Stream};
use crate::sys::with_signals_blocked;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Line {
    host: String,
    port: u16,
    config: Arc<ClientConfig>,
    /// Of the stream in the agent's set.
    key: u64,
    /// Rung when a thread that dials has an answer.
    bell: Arc<Bell>,
    stand: Stand,
}

#[derive(Debug)]
enum Stand {
    Down,
    /// A thread looks up the name and connects.
    Dialling {
        answer: Receiver<io::Result<TcpStream>>,
        until: Instant,
    },
    /// The ends make out who they are.
    Shaking {
        wire: Box<Wire>,
        until: Instant,
    },
    Up(Box<Wire>),
}

/// A stream, and what was read of it.
#[derive(Debug)]
struct Wire {
    stream: Stream,
    decoder: Decoder<ToAgent>,
    want_write: bool,
}

impl Line {
    pub fn new(host: String, port: u16, config: Arc<ClientConfig>, key: u64, bell: Arc<Bell>) -> Self {
        Self { host, port, config, key, bell, stand: Stand::Down }
    }

    /// Dials, for so long at most: then the bell rings and [`Line::answered`] knows more.
    pub fn dial(&mut self, limit: Duration) -> io::Result<()> {
        let (tell, answer) = mpsc::channel();
        let (host, port, bell) = (self.host.clone(), self.port, Arc::clone(&self.bell));
        let thread = thread::Builder::new().name("kumi-dial".into());
        let dial = move || {
            // Nobody listens if it took too long.
            let _ = tell.send(reach(&host, port, limit));
            bell.ring();
        };
        with_signals_blocked(|| thread.spawn(dial))??;
        self.stand = Stand::Dialling { answer, until: Instant::now() + limit };
        Ok(())
    }

    /// The bell has rung: goes on if the host was reached.
    ///
    /// # Errors
    /// It was not.
    pub fn answered(&mut self, epoll: &Epoll) -> io::Result<()> {
        let Stand::Dialling { answer, .. } = &self.stand else { return Ok(()) };
        let socket = match answer.try_recv() {
            Ok(socket) => socket?,
            Err(TryRecvError::Empty) => return Ok(()),
            Err(TryRecvError::Disconnected) => return Err(io::Error::other("the thread that dials has ended")),
        };
        let stream = Stream::dialled(socket, &self.config, &self.host)?;
        epoll.add(stream.as_fd(), self.key, READ)?;
        let wire = Box::new(Wire { stream, decoder: Decoder::limited(UNPROVED, 0), want_write: false });
        self.stand = Stand::Shaking { wire, until: Instant::now() + ANSWER };
        self.flush(epoll)
    }

    /// Reads once.
    ///
    /// # Errors
    /// See [`Stream::hear`].
    pub fn hear(&mut self) -> io::Result<Heard> {
        match self.wire() {
            Some(wire) => wire.stream.hear(&mut wire.decoder),
            None => Ok(Heard::All),
        }
    }

    /// Whether the host is known from now on; said once.
    pub fn is_new(&mut self) -> bool {
        match std::mem::replace(&mut self.stand, Stand::Down) {
            Stand::Shaking { wire, .. } if wire.stream.binding().is_some() => {
                self.stand = Stand::Up(wire);
                true
            }
            other => {
                self.stand = other;
                false
            }
        }
    }

    /// The next message. What comes before a session is short.
    pub fn next_message(&mut self) -> Result<Option<ToAgent>, FrameError> {
        let Stand::Up(wire) = &mut self.stand else { return Ok(None) };
        let message = wire.decoder.next()?;
        if let Some(ToAgent::Session { .. } | ToAgent::Resumed { .. }) = message {
            wire.decoder.limit(FRAME_MAX, u64::MAX);
        }
        Ok(message)
    }

    /// What is known to both ends and nobody else.
    pub fn binding(&self) -> Option<[u8; 32]> {
        let Stand::Up(wire) = &self.stand else { return None };
        wire.stream.binding()
    }

    /// Sends the first words.
    pub fn greet(&mut self, epoll: &Epoll, frames: &[u8]) -> io::Result<()> {
        if let Some(wire) = self.wire() {
            wire.stream.write(frames)?;
        }
        self.flush(epoll)
    }

    /// Sends what `next` appends, as long as the socket takes it. An error is told by what is heard next.
    pub fn send(&mut self, epoll: &Epoll, mut next: impl FnMut(&mut Vec<u8>)) {
        let mut frames = Vec::new();
        while let (Ok(()), Stand::Up(wire)) = (self.flush(epoll), &mut self.stand) {
            frames.clear();
            if wire.stream.is_clear() {
                next(&mut frames);
            }
            if frames.is_empty() || wire.stream.write(&frames).is_err() {
                return;
            }
        }
    }

    fn flush(&mut self, epoll: &Epoll) -> io::Result<()> {
        let key = self.key;
        let Some(wire) = self.wire() else { return Ok(()) };
        wire.stream.flush()?;
        let want = wire.stream.wants_write();
        if want != wire.want_write {
            epoll.set(wire.stream.as_fd(), key, if want { READ | WRITE } else { READ })?;
            wire.want_write = want;
        }
        Ok(())
    }

    /// Ends what there is.
    pub fn hang_up(&mut self, epoll: &Epoll) {
        if let Some(wire) = self.wire() {
            wire.stream.close();
            let _ = epoll.remove(wire.stream.as_fd());
        }
        self.stand = Stand::Down;
    }

    /// Whether the host is known and can be spoken to.
    pub fn is_up(&self) -> bool {
        matches!(self.stand, Stand::Up(_))
    }

    /// Whether there is no connection, nor an attempt at one.
    pub fn is_down(&self) -> bool {
        matches!(self.stand, Stand::Down)
    }

    /// When [`Line::is_late`] begins to hold.
    pub fn next_timeout(&self) -> Option<Instant> {
        match self.stand {
            Stand::Dialling { until, .. } | Stand::Shaking { until, .. } => Some(until),
            Stand::Down | Stand::Up(_) => None,
        }
    }

    /// The host was not reached in time.
    pub fn is_late(&self) -> bool {
        self.next_timeout().is_some_and(|until| until <= Instant::now())
    }

    fn wire(&mut self) -> Option<&mut Wire> {
        match &mut self.stand {
            Stand::Shaking { wire, .. } | Stand::Up(wire) => Some(wire),
            Stand::Down | Stand::Dialling { .. } => None,
        }
    }
}

/// Connects to one of the addresses of this name.
fn reach(host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let until = Instant::now() + limit;
    let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (tried, address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now()) / (addresses.len() - tried) as u32;
        match TcpStream::connect_timeout(address, left.max(Duration::from_millis(1))) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = io::Error::new(error.kind(), format!("{}: {error}", address.ip())),
        }
    }
    Err(failure)
}
