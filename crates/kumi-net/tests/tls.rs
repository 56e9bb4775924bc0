//! Certificates, streams and proofs, between two ends on sockets of this machine.
#![allow(clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use kumi_core::frame::Wire;
use kumi_core::{Decoder, FromAgent, FromWorker, FunctionId, Secret, ToAgent, ToWorker};
use kumi_net::proof::{self, JoinCode};
use kumi_net::stream::{Heard, Stream};
use kumi_net::tls::{self, Fingerprint, Identity, Trust};

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (ours, listener.accept().unwrap().0)
}

/// The two ends, with certificates as they should be.
fn ends() -> (Stream, Stream) {
    let host = Identity::fresh().unwrap();
    let trust = Trust::Fingerprint(Fingerprint::of(&host.chain[0]));
    connect(host, trust, "127.0.0.1")
}

fn connect(host: Identity, trust: Trust, name: &str) -> (Stream, Stream) {
    let (ours, theirs) = sockets();
    let agent = Stream::dialled(ours, &tls::client(trust).unwrap(), name).unwrap();
    (agent, Stream::accepted(theirs, &tls::server(host).unwrap()).unwrap())
}

/// Each end does what it can, until both can do nothing more. No waiting: over loopback what was sent is there.
fn settle(
    (agent, host): (&mut Stream, &mut Stream),
    (to_agent, to_host): (&mut Decoder<ToAgent>, &mut Decoder<FromAgent>),
) -> io::Result<()> {
    let mut quiet = 0;
    while quiet < 3 {
        agent.flush()?;
        let one = agent.hear(to_agent)?;
        host.flush()?;
        let other = host.hear(to_host)?;
        quiet = if one != Heard::More && other != Heard::More { quiet + 1 } else { 0 };
    }
    Ok(())
}

fn shake(agent: &mut Stream, host: &mut Stream) -> io::Result<()> {
    settle((agent, host), (&mut Decoder::default(), &mut Decoder::default()))
}

#[test]
fn messages_go_both_ways_however_large_and_a_stream_says_when_it_takes_more() {
    let (mut agent, mut host) = ends();
    assert!(!agent.is_clear(), "not before the other is known");
    shake(&mut agent, &mut host).unwrap();
    assert!(agent.is_clear() && host.is_clear());
    let content = ToAgent::Worker(ToWorker::Define {
        function: FunctionId::from_number(1),
        payload: (0..9_000_000).map(|byte| byte as u8).collect(),
    });
    let mut bytes = Vec::new();
    content.encode(&mut bytes);
    host.write(&bytes).unwrap();
    host.flush().unwrap();
    assert!(host.wants_write() && !host.is_clear(), "the socket does not take so much at once");
    let small = FromAgent::Ack { received: 7 };
    let mut bytes = Vec::new();
    small.encode(&mut bytes);
    agent.write(&bytes).unwrap();
    let (mut to_agent, mut to_host) = (Decoder::default(), Decoder::default());
    settle((&mut agent, &mut host), (&mut to_agent, &mut to_host)).unwrap();
    assert_eq!(to_host.next(), Ok(Some(small)));
    assert!(to_agent.next() == Ok(Some(content)));
    assert!(host.is_clear());
}

#[test]
fn the_end_is_told() {
    let (mut agent, mut host) = ends();
    shake(&mut agent, &mut host).unwrap();
    host.close();
    assert_eq!(agent.hear::<ToAgent>(&mut Decoder::default()).unwrap(), Heard::End);
    drop(agent);
    let heard = host.hear::<FromAgent>(&mut Decoder::default());
    assert!(matches!(heard, Ok(Heard::End) | Err(_)), "{heard:?}");
}

#[test]
fn another_certificate_is_refused_and_both_are_named() {
    let [one, other] = [(), ()].map(|()| Identity::fresh().unwrap());
    let [wanted, shown] = [&one, &other].map(|identity| Fingerprint::of(&identity.chain[0]));
    assert_ne!(wanted, shown);
    let (mut agent, mut host) = connect(other, Trust::Fingerprint(wanted), "127.0.0.1");
    let error = shake(&mut agent, &mut host).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(
        error.to_string().contains(&shown.to_string()) && error.to_string().contains(&wanted.to_string()),
        "{error}"
    );
    assert!(agent.binding().is_none() && !agent.is_clear());
    assert!(shake(&mut agent, &mut host).is_err(), "the host hears of it too");
}

#[test]
fn a_fresh_certificate_is_not_vouched_for_by_itself_under_another_name() {
    let host = Identity::fresh().unwrap();
    let trust = Trust::Authorities(host.chain.clone());
    let (mut agent, mut host) = connect(host, trust, "127.0.0.1");
    assert_eq!(shake(&mut agent, &mut host).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn whatever_is_not_tls_ends_the_connection() {
    for nonsense in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0xff; 300], &[0x16, 3, 1, 0xff, 0xff]] {
        let (mut ours, theirs) = sockets();
        let mut host = Stream::accepted(theirs, &tls::server(Identity::fresh().unwrap()).unwrap()).unwrap();
        ours.write_all(nonsense).unwrap();
        let error = host.hear::<FromAgent>(&mut Decoder::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
}

#[test]
fn half_a_handshake_waits_and_its_end_is_told() {
    let (mut ours, theirs) = sockets();
    let mut host = Stream::accepted(theirs, &tls::server(Identity::fresh().unwrap()).unwrap()).unwrap();
    ours.write_all(&[0x16, 3, 1, 0, 200, 1]).unwrap();
    let mut decoder = Decoder::<FromAgent>::default();
    while host.hear(&mut decoder).unwrap() != Heard::All {}
    assert!(host.binding().is_none() && !host.is_clear());
    drop(ours);
    assert_eq!(host.hear(&mut decoder).unwrap(), Heard::End);
}

#[test]
fn bytes_that_were_changed_on_the_way_are_seen() {
    let (ours, theirs) = sockets();
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(relay.local_addr().unwrap()).unwrap();
    let mut far = relay.accept().unwrap().0;
    let host = Identity::fresh().unwrap();
    let trust = Trust::Fingerprint(Fingerprint::of(&host.chain[0]));
    let mut agent = Stream::dialled(near, &tls::client(trust).unwrap(), "host").unwrap();
    let mut host = Stream::accepted(theirs, &tls::server(host).unwrap()).unwrap();
    // What the host says goes through us, and one bit of its certificate is lost there.
    let mut between = ours.try_clone().unwrap();
    agent.flush().unwrap();
    let mut bytes = vec![0; 1 << 16];
    let count = far.read(&mut bytes).unwrap();
    between.write_all(&bytes[..count]).unwrap();
    host.hear::<FromAgent>(&mut Decoder::default()).unwrap();
    let count = between.read(&mut bytes).unwrap();
    bytes[count - 20] ^= 1;
    far.write_all(&bytes[..count]).unwrap();
    let heard = (0..10).find_map(|_| agent.hear::<ToAgent>(&mut Decoder::default()).err());
    assert_eq!(heard.map(|error| error.kind()), Some(io::ErrorKind::InvalidData));
}

fn claim(incarnation: u64) -> FromAgent {
    FromAgent::Prove { ticket: 3, index: 2, incarnation, proof: [0; 32] }
}

#[test]
fn a_proof_holds_for_one_secret_one_connection_and_one_claim() {
    let (mut agent, mut host) = ends();
    assert_eq!(agent.binding(), None);
    shake(&mut agent, &mut host).unwrap();
    let binding = agent.binding().unwrap();
    assert_eq!(host.binding(), Some(binding), "both ends know it");
    let (mut other, mut end) = ends();
    shake(&mut other, &mut end).unwrap();
    let elsewhere = other.binding().unwrap();
    assert_ne!(binding, elsewhere);
    let [secret, wrong] = [Secret([7; 32]), Secret([8; 32])];
    let proved = proof::prove(&secret, &binding, claim(9));
    assert!(proof::is_proved(&secret, &binding, &proved));
    assert!(!proof::is_proved(&wrong, &binding, &proved), "the secret counts");
    assert!(!proof::is_proved(&secret, &elsewhere, &proved), "played back on another connection");
    let FromAgent::Prove { proof, .. } = proved else { unreachable!() };
    let altered = FromAgent::Prove { ticket: 3, index: 2, incarnation: 10, proof };
    assert!(!proof::is_proved(&secret, &binding, &altered), "used for another claim");
    let session = FromAgent::Resume { session: 3, received: 2, proof };
    assert!(!proof::is_proved(&secret, &binding, &session));
    assert!(proof::is_proved(&secret, &binding, &proof::prove(&secret, &binding, session)));
    assert!(!proof::is_proved(&secret, &binding, &FromAgent::Worker(FromWorker::Heartbeat)), "it claims nothing");
}

#[test]
fn codes_and_fingerprints_are_texts() {
    let code = JoinCode { ticket: u64::MAX, secret: Secret(proof::random().unwrap()) };
    assert_eq!(code.to_string().parse(), Ok(code.clone()));
    assert!(!format!("{code:?}").contains(&code.to_string()[22..]), "not even a debugger's print shows it");
    for wrong in ["", "kumi", "kumi-", "kumi-1-", "kumi-x-00", &code.to_string()[1..], &format!("{code}0"), "kumi-1-é"]
    {
        assert_eq!(wrong.parse::<JoinCode>(), Err(()), "{wrong}");
    }
    let fingerprint = Fingerprint(proof::random().unwrap());
    assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
    assert_eq!(fingerprint.to_string().to_uppercase().parse(), Ok(fingerprint));
    assert_eq!("0".repeat(63).parse::<Fingerprint>(), Err(()));
}

/// Of `data/`: an authority, a certificate that it has signed for `node7.example`, and the key of that.
#[test]
fn an_identity_of_the_users_is_read_from_pem() {
    let chain = include_bytes!("data/chain.pem");
    let identity = Identity::from_pem(chain, include_bytes!("data/key.pem"), None).unwrap();
    let trust = Trust::Authorities(tls::certificates(include_bytes!("data/authority.pem")).unwrap());
    let (mut agent, mut host) = connect(identity, trust, "node7.example");
    shake(&mut agent, &mut host).unwrap();
    assert!(agent.binding().is_some());
    let identity = Identity::from_pem(chain, include_bytes!("data/key.pem"), None).unwrap();
    let trust = Trust::Authorities(tls::certificates(include_bytes!("data/authority.pem")).unwrap());
    let (mut agent, mut host) = connect(identity, trust, "node8.example");
    assert!(shake(&mut agent, &mut host).is_err(), "it is another's name");
    assert!(Identity::from_pem(b"nothing", b"nothing", None).is_err());
    assert!(tls::certificates(b"").is_err());
}
