//! TLS 1.3 between a host and the agents of its remote workers: certificates, and who is trusted. `stream.rs` speaks it.
//!
//! A host shows a certificate: mostly one that it has just made, known by its *fingerprint* alone, which stands in the URL
//! that agents dial; or the user's own, which authorities vouch for. Agents show none; they prove secrets (`proof.rs`).
//! No old versions, no renegotiation, no resumption: each connection stands for itself.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use pkcs8::{EncryptedPrivateKeyInfo, SecretDocument};
use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, version};

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

pub(crate) fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
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
