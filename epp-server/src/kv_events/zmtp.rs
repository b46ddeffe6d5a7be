//! What reading events needs of ZMTP 3.0 (<https://rfc.zeromq.org/spec/23>): subscribers and dealers without encryption.
//!
//! The event port is open to the whole cluster, so no memory is taken for what a peer only claims: a frame grows as its
//! bytes arrive, up to a limit.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bytes of all frames of a message; engines send some 10 MB when they store many blocks at once.
const MAX_MESSAGE: u64 = 64 << 20;
/// Bytes of a peer's `READY`; a type and a name, mostly.
const MAX_READY: u64 = 4 << 10;
/// Frames of a message; a replayed one has four.
const MAX_FRAMES: usize = 16;
/// Time that a peer has to answer, from the connection to the first message.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// Silence after which a peer is asked whether it is there, and the pause between two such questions.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));

/// Signature, version 3.0, security `NULL`, padded with zeros.
const GREETING: [u8; 64] = {
    let mut greeting = [0; 64];
    [greeting[0], greeting[9], greeting[10]] = [0xff, 0x7f, 3];
    [greeting[12], greeting[13], greeting[14], greeting[15]] = *b"NULL";
    greeting
};

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// What this side of a connection is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    /// Reads what a publisher sends.
    Subscriber,
    /// Asks, and reads answers.
    Dealer,
}

/// A connection that cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ZmtpError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no answer within seconds: `{0}`")]
    Timeout(u64),
    #[error("the peer does not speak ZMTP 3 without encryption")]
    Greeting,
    #[error("the peer is no publisher of events: `{0}`")]
    Peer(String),
    #[error("message is larger than bytes: `{0}`")]
    TooLarge(u64),
    #[error("message has more frames than: `{MAX_FRAMES}`")]
    TooManyFrames,
}

/// A connection whose peers have greeted each other.
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects to a listening socket.
    pub(super) async fn connect(address: SocketAddr, role: Role) -> Result<Self, ZmtpError> {
        let connect = async { Self::greet(TcpStream::connect(address).await?, role).await };
        within(HANDSHAKE_TIME, connect).await
    }

    /// Takes a connection that a peer has opened.
    pub(super) async fn accept(stream: TcpStream, role: Role) -> Result<Self, ZmtpError> {
        within(HANDSHAKE_TIME, Self::greet(stream, role)).await
    }

    async fn greet(stream: TcpStream, role: Role) -> Result<Self, ZmtpError> {
        stream.set_nodelay(true)?;
        // A subscriber says nothing, so it would wait for ever for a peer whose host is gone.
        SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
        let mut connection = Self { stream: BufReader::new(stream) };
        connection.stream.write_all(&GREETING).await?;
        let mut greeting = [0; GREETING.len()];
        connection.stream.read_exact(&mut greeting).await?;
        match (greeting.first(), greeting.get(9..17)) {
            (Some(0xff), Some([0x7f, version, _, b'N', b'U', b'L', b'L', 0])) if *version >= 3 => {}
            _ => return Err(ZmtpError::Greeting),
        }
        let (own, peers) = match role {
            Role::Subscriber => ("SUB", ["PUB", "XPUB"]),
            Role::Dealer => ("DEALER", ["ROUTER", "REP"]),
        };
        connection.write_frame(COMMAND, &ready(own)).await?;
        let (_, command) = connection.read_frame(MAX_READY).await?;
        let peer = socket_type(&command).unwrap_or_default();
        if !peers.contains(&&*peer) {
            return Err(ZmtpError::Peer(peer));
        }
        Ok(connection)
    }

    /// Asks a publisher for all topics that begin so.
    pub(super) async fn subscribe(&mut self, topic: &str) -> Result<(), ZmtpError> {
        self.write_frame(0, &[&[1], topic.as_bytes()].concat()).await
    }

    /// Sends a message of these frames.
    pub(super) async fn send(&mut self, frames: &[&[u8]]) -> Result<(), ZmtpError> {
        for (frame, left) in frames.iter().zip((0..frames.len()).rev()) {
            self.write_frame(if left > 0 { MORE } else { 0 }, frame).await?;
        }
        Ok(())
    }

    /// Reads the frames of the next message.
    pub(super) async fn receive(&mut self) -> Result<Vec<Vec<u8>>, ZmtpError> {
        let mut frames = Vec::new();
        let mut left = MAX_MESSAGE;
        loop {
            let (flags, frame) = self.read_frame(left).await?;
            if flags & COMMAND != 0 {
                continue;
            }
            left = left.saturating_sub(frame.len() as u64);
            frames.push(frame);
            if flags & MORE == 0 {
                return Ok(frames);
            }
            if frames.len() == MAX_FRAMES {
                return Err(ZmtpError::TooManyFrames);
            }
        }
    }

    /// The same, for a peer that has been asked.
    pub(super) async fn answer(&mut self) -> Result<Vec<Vec<u8>>, ZmtpError> {
        within(HANDSHAKE_TIME, self.receive()).await
    }

    async fn read_frame(&mut self, limit: u64) -> Result<(u8, Vec<u8>), ZmtpError> {
        let flags = self.stream.read_u8().await?;
        let length = match flags & LONG {
            0 => u64::from(self.stream.read_u8().await?),
            _ => self.stream.read_u64().await?,
        };
        if length > limit {
            return Err(ZmtpError::TooLarge(limit));
        }
        let mut frame = Vec::new();
        (&mut self.stream).take(length).read_to_end(&mut frame).await?;
        if frame.len() as u64 != length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok((flags, frame))
    }

    async fn write_frame(&mut self, flags: u8, body: &[u8]) -> Result<(), ZmtpError> {
        let mut frame = vec![flags];
        match u8::try_from(body.len()) {
            Ok(length) => frame.push(length),
            Err(_) => {
                frame = vec![flags | LONG];
                frame.extend((body.len() as u64).to_be_bytes());
            }
        }
        frame.extend(body);
        Ok(self.stream.write_all(&frame).await?)
    }
}

async fn within<T>(
    time: Duration,
    future: impl Future<Output = Result<T, ZmtpError>>,
) -> Result<T, ZmtpError> {
    timeout(time, future).await.unwrap_or(Err(ZmtpError::Timeout(time.as_secs())))
}

/// The command `READY` with a socket's type.
fn ready(socket_type: &str) -> Vec<u8> {
    let mut command = b"\x05READY\x0bSocket-Type".to_vec();
    command.extend((socket_type.len() as u32).to_be_bytes());
    command.extend(socket_type.as_bytes());
    command
}

/// The type that a peer's `READY` tells.
fn socket_type(command: &[u8]) -> Option<String> {
    let mut rest = command.strip_prefix(b"\x05READY")?;
    while let Some((&length, body)) = rest.split_first() {
        let (name, body) = body.split_at_checked(usize::from(length))?;
        let (length, body) = body.split_first_chunk()?;
        let (value, body) = body.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            return Some(String::from_utf8_lossy(value).into_owned());
        }
        rest = body;
    }
    None
}
