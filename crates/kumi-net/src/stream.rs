//! One end of a connection between a host and an agent: TLS over a socket that never blocks.

use std::cell::RefCell;
use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use kumi_core::Decoder;
use kumi_core::frame::Wire;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

pub use crate::child::Heard;
use crate::tls::invalid;

/// How much is read from a socket at once.
const READING: usize = 1 << 16;

thread_local! {
    /// What was read and is not decrypted: one for all connections of a thread, for there may be thousands.
    static SPACE: RefCell<Vec<u8>> = RefCell::new(vec![0; READING]);
}

/// What a secret is bound to its connection by.
const EXPORTER: &[u8] = b"EXPORTER-kumi-agent";

/// One end of a connection. It never blocks: call [`Stream::hear`] when the socket is readable and [`Stream::flush`] when it
/// is writable, of which the latter is worth watching while [`Stream::wants_write`].
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    layer: Layer,
}

/// What stands between the frames and the socket.
#[derive(Debug)]
enum Layer {
    Tls(Box<Connection>),
    /// Nothing, and bytes to be sent: for who measures what TLS costs. Never in the product.
    #[cfg(feature = "plain")]
    Plain(Vec<u8>),
}

impl Stream {
    /// The host's end of a connection that was accepted.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking.
    pub fn accepted(socket: TcpStream, config: &Arc<ServerConfig>) -> io::Result<Self> {
        Self::secured(socket, ServerConnection::new(Arc::clone(config)).map_err(invalid)?.into())
    }

    /// The agent's end of one that stands, or is being made, to this host.
    ///
    /// # Errors
    /// It has a name that cannot be one.
    pub fn dialled(socket: TcpStream, config: &Arc<ClientConfig>, host: &str) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(invalid)?;
        Self::secured(socket, ClientConnection::new(Arc::clone(config), name).map_err(invalid)?.into())
    }

    /// Either end of one without TLS, on which anybody proves anything.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking.
    #[cfg(feature = "plain")]
    pub fn plain(socket: TcpStream) -> io::Result<Self> {
        Self::new(socket, Layer::Plain(Vec::new()))
    }

    fn secured(socket: TcpStream, mut tls: Connection) -> io::Result<Self> {
        // What is bounded is how much is handed over: see `is_clear`.
        tls.set_buffer_limit(None);
        Self::new(socket, Layer::Tls(Box::new(tls)))
    }

    fn new(socket: TcpStream, layer: Layer) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, layer })
    }

    /// Reads once from the socket, and answers what TLS itself wants answered.
    ///
    /// # Errors
    /// Those of sockets; `InvalidData` when the other end does not keep to TLS, or is not who it ought to be.
    pub fn hear<M: Wire>(&mut self, decoder: &mut Decoder<M>) -> io::Result<Heard> {
        match &mut self.layer {
            Layer::Tls(tls) => {
                let heard = SPACE.with_borrow_mut(|space| {
                    let count = self.socket.read(space)?;
                    decrypt(tls, space.get(..count).unwrap_or_default(), decoder)
                });
                // What TLS itself wants said; also what was wrong, which our own error tells in any case.
                let flushed = self.flush();
                match heard {
                    Ok(heard) => flushed.map(|()| heard),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Heard::More),
                    Err(error) => waiting(error).map(|()| Heard::All),
                }
            }
            #[cfg(feature = "plain")]
            Layer::Plain(_) => match self.socket.read(decoder.space()) {
                Ok(0) => Ok(Heard::End),
                Ok(count) => {
                    decoder.filled(count);
                    Ok(Heard::More)
                }
                Err(error) => waiting(error).map(|()| Heard::All),
            },
        }
    }

    /// Whether all that was handed over is on its way: time for some more. Before that, hand nothing over.
    pub fn is_clear(&self) -> bool {
        match &self.layer {
            Layer::Tls(tls) => !tls.wants_write() && !tls.is_handshaking(),
            #[cfg(feature = "plain")]
            Layer::Plain(out) => out.is_empty(),
        }
    }

    /// Hands bytes over, which [`Stream::flush`] sends.
    ///
    /// # Errors
    /// None is known.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.layer {
            Layer::Tls(tls) => tls.writer().write_all(bytes),
            #[cfg(feature = "plain")]
            Layer::Plain(out) => out.write_all(bytes),
        }
    }

    /// Sends what the socket takes.
    ///
    /// # Errors
    /// Those of sockets: the connection has ended.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.wants_write() {
            let sent = match &mut self.layer {
                Layer::Tls(tls) => tls.write_tls(&mut self.socket).map(drop),
                #[cfg(feature = "plain")]
                Layer::Plain(out) => self.socket.write(out).map(|count| drop(out.drain(..count))),
            };
            match sent {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return waiting(error),
            }
        }
        Ok(())
    }

    /// Whether something waits until the socket takes bytes again.
    pub fn wants_write(&self) -> bool {
        match &self.layer {
            Layer::Tls(tls) => tls.wants_write(),
            #[cfg(feature = "plain")]
            Layer::Plain(out) => !out.is_empty(),
        }
    }

    /// Says that nothing more comes, as far as the socket takes that. Dropping the stream closes it.
    pub fn close(&mut self) {
        match &mut self.layer {
            Layer::Tls(tls) => tls.send_close_notify(),
            #[cfg(feature = "plain")]
            Layer::Plain(_) => {}
        }
        // Who does not hear it sees the end of the connection.
        let _ = self.flush();
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Ends the connection, also where a forked child has a copy of the descriptor.
    pub fn hang_up(self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// What is known to both ends of this connection and nobody else. `None`: it is not yet made.
    pub fn binding(&self) -> Option<[u8; 32]> {
        match &self.layer {
            Layer::Tls(tls) if tls.is_handshaking() => None,
            Layer::Tls(tls) => tls.export_keying_material([0; 32], EXPORTER, None).ok(),
            #[cfg(feature = "plain")]
            Layer::Plain(_) => Some([0; 32]),
        }
    }
}

/// Hands on what these bytes say.
fn decrypt<M: Wire>(tls: &mut Connection, mut bytes: &[u8], decoder: &mut Decoder<M>) -> io::Result<Heard> {
    if bytes.is_empty() {
        return Ok(Heard::End);
    }
    while !bytes.is_empty() {
        tls.read_tls(&mut bytes)?;
        tls.process_new_packets().map_err(invalid)?;
        if !take(tls, decoder)? {
            return Ok(Heard::End);
        }
    }
    Ok(Heard::More)
}

/// Hands on what was decrypted. False: there will be no more.
fn take<M: Wire>(tls: &mut Connection, decoder: &mut Decoder<M>) -> io::Result<bool> {
    loop {
        let mut reader = tls.reader();
        let count = match reader.fill_buf() {
            Ok([]) => return Ok(false),
            Ok(bytes) => {
                decoder.feed(bytes);
                bytes.len()
            }
            Err(error) => return waiting(error).map(|()| true),
        };
        reader.consume(count);
    }
}

/// That the socket is not ready is no error.
fn waiting(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
