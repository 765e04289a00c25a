//! A broker that tests play: it says which brokers there are, or that there are none, which is what one says that has just
//! started or has been away for longer than its controller waits.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const METADATA: u16 = 3;
const API_VERSIONS: u16 = 18;
const UNSUPPORTED_VERSION: u16 = 35;

/// Answers until the test ends.
pub(super) struct Broker {
    pub(super) address: SocketAddr,
    is_alone: Arc<AtomicBool>,
    is_down: Arc<AtomicBool>,
}

impl Broker {
    /// Knows itself, and `topic` with one partition.
    pub(super) fn start(topic: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (is_alone, is_down) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (knows, down) = (Arc::clone(&is_alone), Arc::clone(&is_down));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (knows, down) = (Arc::clone(&knows), Arc::clone(&down));
                std::thread::spawn(move || serve(stream, topic, address.port(), &knows, &down));
            }
        });
        Self {
            address,
            is_alone,
            is_down,
        }
    }

    /// From now on it hangs up on everybody, or on nobody.
    pub(super) fn hangs_up(&self, on_all: bool) {
        self.is_down.store(on_all, Ordering::Release);
    }

    /// From now on there are no brokers, or there are again.
    pub(super) fn knows_nobody(&self, nobody: bool) {
        self.is_alone.store(nobody, Ordering::Release);
    }
}

/// Ends with the connection.
fn serve(
    mut stream: TcpStream,
    topic: &str,
    port: u16,
    is_alone: &AtomicBool,
    is_down: &AtomicBool,
) -> Option<()> {
    stream.set_read_timeout(Some(Duration::from_millis(20))).ok()?;
    loop {
        let mut first = [0];
        loop {
            let peeked = stream.peek(&mut first);
            if is_down.load(Ordering::Acquire) || matches!(peeked, Ok(0)) {
                return None;
            }
            if peeked.is_ok() {
                break;
            }
        }
        let mut size = [0; 4];
        stream.read_exact(&mut size).ok()?;
        let mut request = vec![0; u32::from_be_bytes(size) as usize];
        stream.read_exact(&mut request).ok()?;
        let number = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        let mut answer = request[4..8].to_vec();
        match (number(0), number(2)) {
            (API_VERSIONS, 0) => {
                put(&mut answer, &[0, 0, 0, 0, 0, 2]);
                for api in [METADATA, API_VERSIONS] {
                    let highest = u16::from(api == METADATA);
                    for value in [api, 0, highest] {
                        put(&mut answer, &value.to_be_bytes());
                    }
                }
            }
            (API_VERSIONS, _) => {
                put(&mut answer, &UNSUPPORTED_VERSION.to_be_bytes());
                put(&mut answer, &[0; 4]);
            }
            (METADATA, 1) => metadata(&mut answer, topic, port, is_alone.load(Ordering::Acquire)),
            _ => return None,
        }
        let size = u32::try_from(answer.len()).unwrap();
        stream.write_all(&size.to_be_bytes()).ok()?;
        stream.write_all(&answer).ok()?;
    }
}

fn put(answer: &mut Vec<u8>, bytes: &[u8]) {
    answer.extend_from_slice(bytes);
}

fn text(answer: &mut Vec<u8>, text: &str) {
    put(answer, &u16::try_from(text.len()).unwrap().to_be_bytes());
    put(answer, text.as_bytes());
}

fn long(answer: &mut Vec<u8>, number: i32) {
    put(answer, &number.to_be_bytes());
}

/// Metadata, version 1 (Kafka protocol guide): brokers, controller, topics.
fn metadata(answer: &mut Vec<u8>, topic: &str, port: u16, is_alone: bool) {
    let (brokers, leader) = if is_alone { (0, -1) } else { (1, 0) };
    long(answer, brokers);
    if !is_alone {
        long(answer, 0);
        text(answer, "127.0.0.1");
        long(answer, i32::from(port));
        put(answer, &u16::MAX.to_be_bytes());
    }
    long(answer, leader);
    long(answer, 1);
    put(answer, &[0, 0]);
    text(answer, topic);
    put(answer, &[0]);
    long(answer, 1);
    // Leader not available, or fine.
    put(answer, &[0, if is_alone { 5 } else { 0 }]);
    long(answer, 0);
    long(answer, leader);
    for _ in ["replicas", "in sync"] {
        long(answer, 1);
        long(answer, 0);
    }
}
