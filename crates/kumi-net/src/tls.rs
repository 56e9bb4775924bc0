//! TLS 1.3 between a host and the agents of its remote workers: certificates, and a stream that never blocks.
//!
//! A host shows a certificate: mostly one that it has just made, known by its *fingerprint* alone, which stands in the URL
//! that agents dial; or the user's own, which authorities vouch for. Agents show none; they prove secrets (`proof.rs`).
//! No old versions, no renegotiation, no resumption: each connection stands for itself.

use std::fmt;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::str::FromStr;
use std::sync::Arc;

use kumi_core::Decoder;
use kumi_core::frame::Wire;
use pkcs8::{EncryptedPrivateKeyInfo, SecretDocument};
use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, RootCertStore, ServerConfig, ServerConnection,
    SignatureScheme, version,
};

pub use crate::child::Heard;

/// How much is read from a socket at once.
const READING: usize = 1 << 16;
/// What a secret is bound to its connection by.
const EXPORTER: &[u8] = b"EXPORTER-kumi-agent";

/// SHA-256 of a certificate; as text, 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// That of this certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex(&self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        unhex(text).map(Self).ok_or(())
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// And back; nothing but two digits for each byte.
pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let bytes: Vec<u8> =
        digits?.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | *digit as u8)).collect();
    (text.len() == 64).then_some(bytes)?.try_into().ok()
}

/// What a host shows, and its key.
#[derive(Debug)]
pub struct Identity {
    /// Its own certificate first, then those that vouch for it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Of the first.
    pub key: PrivateKeyDer<'static>,
}

// The certificate of a fresh identity, but for its key and signature: version 3, number 1, Ed25519, issued by and for the
// name "kumi", valid always.
const NUMBERS: &[u8] = &[0xa0, 3, 2, 1, 2, 2, 1, 1];
const ED25519: &[u8] = &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70];
const NAME: &[u8] = b"\x30\x0f\x31\x0d\x30\x0b\x06\x03\x55\x04\x03\x0c\x04kumi";
const ALWAYS: &[u8] = b"\x30\x22\x18\x0f19700101000000Z\x18\x0f99991231235959Z";

/// A DER element of this kind; at most 65535 bytes long.
fn element(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let [high, low] = (content.len() as u16).to_be_bytes();
    // One form only: the shortest.
    let head = match (high, low) {
        (0, 0..128) => vec![kind, low],
        (0, _) => vec![kind, 0x81, low],
        (_, _) => vec![kind, 0x82, high, low],
    };
    [head, content].concat()
}

impl Identity {
    /// A new one, which nobody vouches for: it is known by its fingerprint.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn fresh() -> io::Result<Self> {
        let none = || io::Error::other("no key could be made for the certificate: the system gives no random numbers");
        let secret = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| none())?;
        let pair = Ed25519KeyPair::from_pkcs8(secret.as_ref()).map_err(|_| none())?;
        let key = element(0x30, &[ED25519, &element(3, &[&[0], pair.public_key().as_ref()])]);
        let content = element(0x30, &[NUMBERS, ED25519, NAME, ALWAYS, NAME, &key]);
        let signature = element(3, &[&[0], pair.sign(&content).as_ref()]);
        let certificate = element(0x30, &[&content, ED25519, &signature]);
        let key = PrivateKeyDer::Pkcs8(secret.as_ref().to_vec().into());
        Ok(Self { chain: vec![certificate.into()], key })
    }

    /// The user's own: certificates and key as PEM; with a password if the key is encrypted.
    ///
    /// # Errors
    /// They are not that, or the password is wrong.
    pub fn from_pem(chain: &[u8], key: &[u8], password: Option<&str>) -> io::Result<Self> {
        let chain = certificates(chain).map_err(|error| invalid(format!("the certificate: {error}")))?;
        let key = private_key(key, password).map_err(|reason| invalid(format!("the private key: {reason}")))?;
        Ok(Self { chain, key })
    }

    /// That of its own certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.chain.first().map_or(Fingerprint([0; 32]), Fingerprint::of)
    }
}

/// Of a PEM text. What is encrypted must be PKCS#8 with PBES2, as openssl makes it since version 1.1.
fn private_key(pem: &[u8], password: Option<&str>) -> Result<PrivateKeyDer<'static>, String> {
    let text = std::str::from_utf8(pem).map_err(|_| "it is no PEM text")?;
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err("it is encrypted in an old form: `openssl pkcs8 -topk8 -in OLD -out NEW` makes it new".into());
    }
    if !text.contains("BEGIN ENCRYPTED PRIVATE KEY") {
        return PrivateKeyDer::from_pem_slice(pem).map_err(|error| error.to_string());
    }
    let password = password.ok_or("it is encrypted, and no password is given")?;
    let (_, sealed) = SecretDocument::from_pem(text).map_err(|error| error.to_string())?;
    let sealed = EncryptedPrivateKeyInfo::try_from(sealed.as_bytes()).map_err(|error| error.to_string())?;
    let open = sealed.decrypt(password).map_err(|_| "it cannot be decrypted: the password is wrong")?;
    Ok(PrivateKeyDer::Pkcs8(open.as_bytes().to_vec().into()))
}

/// All certificates of a PEM text.
///
/// # Errors
/// It has none, or a broken one.
pub fn certificates(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(invalid)?;
    if all.is_empty() {
        return Err(invalid("no certificate in it"));
    }
    Ok(all)
}

/// Whom an agent takes for its host.
#[derive(Debug)]
pub enum Trust {
    /// Who shows this certificate.
    Fingerprint(Fingerprint),
    /// Who shows one for its name that one of these vouches for.
    Authorities(Vec<CertificateDer<'static>>),
}

/// Whether this is why a connection failed: the other end is not who it ought to be, and will not be next time either.
pub fn is_stranger(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::General(_)))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// How a host answers.
///
/// # Errors
/// Key and certificate do not belong together, or are of a kind that is not supported.
pub fn server(identity: Identity) -> io::Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_protocol_versions(&[&version::TLS13]).map_err(invalid)?.with_no_client_auth();
    let mut config = builder.with_single_cert(identity.chain, identity.key).map_err(invalid)?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// How an agent asks.
///
/// # Errors
/// The authorities' certificates are none that can be used.
pub fn client(trust: Trust) -> io::Result<Arc<ClientConfig>> {
    let provider = provider();
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Fingerprint(fingerprint) => Arc::new(Pinned { fingerprint, provider: Arc::clone(&provider) }),
        Trust::Authorities(certificates) => {
            let mut roots = RootCertStore::empty();
            // A system's list may have some that nobody can read.
            roots.add_parsable_certificates(certificates);
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(invalid)?
        }
    };
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[&version::TLS13]).map_err(invalid)?;
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// One certificate is the right one, whatever stands in it.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Fingerprint::of(certificate);
        if shown == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        let text =
            format!("its certificate has the fingerprint {shown}, and not that of the URL, {}", self.fingerprint);
        Err(rustls::Error::General(text))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// One end of a connection. It never blocks: call [`Stream::hear`] when the socket is readable and [`Stream::flush`] when it
/// is writable, of which the latter is worth watching while [`Stream::wants_write`].
#[derive(Debug)]
pub struct Stream {
    socket: BufReader<TcpStream>,
    tls: Connection,
}

impl Stream {
    /// The host's end of a connection that was accepted.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking.
    pub fn accepted(socket: TcpStream, config: &Arc<ServerConfig>) -> io::Result<Self> {
        Self::new(socket, ServerConnection::new(Arc::clone(config)).map_err(invalid)?.into())
    }

    /// The agent's end of one that stands, or is being made, to this host.
    ///
    /// # Errors
    /// It has a name that cannot be one.
    pub fn dialled(socket: TcpStream, config: &Arc<ClientConfig>, host: &str) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(invalid)?;
        Self::new(socket, ClientConnection::new(Arc::clone(config), name).map_err(invalid)?.into())
    }

    fn new(socket: TcpStream, mut tls: Connection) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        // What is bounded is how much is handed over: see `is_clear`.
        tls.set_buffer_limit(None);
        Ok(Self { socket: BufReader::with_capacity(READING, socket), tls })
    }

    /// Reads once from the socket, and answers what TLS itself wants answered.
    ///
    /// # Errors
    /// Those of sockets; `InvalidData` when the other end does not keep to TLS, or is not who it ought to be.
    pub fn hear<M: Wire>(&mut self, decoder: &mut Decoder<M>) -> io::Result<Heard> {
        loop {
            match self.tls.read_tls(&mut self.socket) {
                Ok(0) => return Ok(Heard::End),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Heard::All),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Heard::More),
                Err(error) => return Err(error),
            }
            if let Err(error) = self.tls.process_new_packets() {
                // The other end may learn what was wrong; ours is told in any case.
                let _ = self.flush();
                return Err(invalid(error));
            }
            if !self.take(decoder)? {
                return Ok(Heard::End);
            }
            if self.socket.buffer().is_empty() {
                self.flush()?;
                return Ok(Heard::More);
            }
        }
    }

    /// Hands on what was decrypted. False: there will be no more.
    fn take<M: Wire>(&mut self, decoder: &mut Decoder<M>) -> io::Result<bool> {
        loop {
            match io::Read::read(&mut self.tls.reader(), decoder.space()) {
                Ok(0) => return Ok(false),
                Ok(count) => decoder.filled(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether all that was handed over is on its way: time for some more. Before that, hand nothing over.
    pub fn is_clear(&self) -> bool {
        !self.tls.wants_write() && !self.tls.is_handshaking()
    }

    /// Hands bytes over, which [`Stream::flush`] sends.
    ///
    /// # Errors
    /// None is known.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.writer().write_all(bytes)
    }

    /// Sends what the socket takes.
    ///
    /// # Errors
    /// Those of sockets: the connection has ended.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(self.socket.get_mut()) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether something waits until the socket takes bytes again.
    pub fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Says that nothing more comes, as far as the socket takes that. Dropping the stream closes it.
    pub fn close(&mut self) {
        self.tls.send_close_notify();
        // Who does not hear it sees the end of the connection.
        let _ = self.flush();
        let _ = self.socket.get_ref().shutdown(Shutdown::Write);
    }

    /// Ends the connection, also where a forked child has a copy of the descriptor.
    pub fn hang_up(self) {
        let _ = self.socket.get_ref().shutdown(Shutdown::Both);
    }

    /// What is known to both ends of this connection and nobody else. `None`: it is not yet made.
    pub fn binding(&self) -> Option<[u8; 32]> {
        if self.tls.is_handshaking() {
            return None;
        }
        self.tls.export_keying_material([0; 32], EXPORTER, None).ok()
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}
