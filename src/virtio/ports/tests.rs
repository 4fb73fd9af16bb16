//! Rules of section 5.3's control messages, and the host's side with a test at the other end.

mod moving;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use rustix::event::PollFlags;
use vm_memory::GuestAddress;

use super::*;
use crate::memory::transfer::Segment;

/// A folder of a test's own, a device with ports in it, and a driver that moves bytes at once.
struct Set {
    folder: PathBuf,
    ports: Ports,
    memory: GuestMemory,
}

/// Where the driver has its one buffer.
const BUFFER: GuestAddress = GuestAddress(0x1_0000);

impl Set {
    /// Ports of these names, each at a file of the same name, after `prepare` has seen the folder.
    fn new(names: &[&str], prepare: impl FnOnce(&PathBuf)) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cottage-ports-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        prepare(&folder);
        let port = |name: &&str| port::Port {
            name: (*name).to_owned(),
            path: folder.join(name),
        };
        let ports: Vec<_> = names.iter().map(port).collect();
        let ports = Ports::open(&ports, |_| ()).unwrap();
        let memory = GuestMemory::new(2 << 20).unwrap();
        Self {
            folder,
            ports,
            memory,
        }
    }

    /// One listening port, "a", known to the guest and opened there.
    fn opened() -> Self {
        let set = Self::new(&["a"], |_| ());
        set.say(0, DEVICE_READY, 1);
        set.say(1, PORT_READY, 1);
        set.say(1, PORT_OPEN, 1);
        set.messages();
        set.ports.inbox(4).unwrap().listen(true);
        set
    }

    /// The driver sends `bytes` through `queue`.
    fn send(&self, queue: usize, bytes: &[u8]) {
        self.memory.write(BUFFER, bytes).unwrap();
        let len = u32::try_from(bytes.len()).unwrap();
        let chain = Chain {
            readable: vec![Segment { gpa: BUFFER, len }],
            ..Chain::default()
        };
        assert!(self.ports.ready(queue));
        let request = Request {
            queue,
            features: F_MULTIPORT,
            chain: &chain,
            memory: &self.memory,
        };
        assert_eq!(self.ports.serve(&request).unwrap(), 0);
    }

    /// A control message of the driver's.
    fn say(&self, id: u32, event: u16, value: u16) {
        let mut text = id.to_le_bytes().to_vec();
        text.extend([event, value].map(u16::to_le_bytes).as_flattened());
        self.send(CONTROL_TRANSMIT, &text);
    }

    /// What comes through `queue` into a buffer of 4 KiB.
    fn receive(&self, queue: usize) -> Option<Vec<u8>> {
        let inbox = self.ports.inbox(queue).unwrap();
        let none = Buffers {
            memory: &self.memory,
            chains: &[],
        };
        inbox.fetch(F_MULTIPORT, &none)?;
        let segment = Segment {
            gpa: BUFFER,
            len: 0x1000,
        };
        let chain = Chain {
            writable: vec![segment],
            ..Chain::default()
        };
        let mut used = Vec::new();
        inbox.deliver(&self.memory, &[chain], &mut used).unwrap();
        let mut bytes = vec![0; used[0].1 as usize];
        self.memory.read(BUFFER, &mut bytes).unwrap();
        Some(bytes)
    }

    /// All control messages that wait: port, event, value, name.
    fn messages(&self) -> Vec<(u8, u8, u8, String)> {
        let message = |m: Vec<u8>| {
            (
                m[0],
                m[4],
                m[6],
                String::from_utf8(m[8..].to_vec()).unwrap(),
            )
        };
        std::iter::from_fn(|| self.receive(CONTROL_RECEIVE))
            .map(message)
            .collect()
    }

    /// Lets the device's thread do what it does between notifications, until it has nothing to do.
    fn settle(&self) {
        // What another process does may be a moment on its way.
        std::thread::sleep(Duration::from_millis(20));
        for _ in 0..10 {
            self.ports.wake(&std::thread::current());
            self.ports.wait();
        }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.folder.join("a")).unwrap();
        self.settle();
        stream
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        let _nothing_left = fs::remove_dir_all(&self.folder);
    }
}

fn open_is(value: u8) -> Vec<(u8, u8, u8, String)> {
    vec![(1, 6, value, String::new())]
}

#[test]
fn virtio_5_3_4_configuration_counts_ports_with_port_0() {
    let set = Set::new(&["a", "b"], |_| ());
    assert_eq!(set.ports.config(), [0, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(set.ports.queues().len(), 8);
}

#[test]
fn virtio_5_3_6_2_ready_device_adds_its_ports_and_names_those_that_are_ready() {
    let set = Set::new(&["a", "bc"], |_| ());
    assert_eq!(set.messages(), []);
    set.say(u32::MAX, DEVICE_READY, 1);
    let add = |id| (id, 1, 1, String::new());
    assert_eq!(set.messages(), [add(1), add(2)]);
    set.say(2, PORT_READY, 1);
    assert_eq!(set.messages(), [(2, 7, 1, "bc".to_owned())]);
}

#[test]
fn virtio_5_3_6_2_connection_opens_the_port_and_its_end_closes_it() {
    let set = Set::opened();
    let stream = set.connect();
    assert_eq!(set.messages(), open_is(1));
    drop(stream);
    set.settle();
    assert_eq!(set.receive(4), None, "the end is read");
    set.settle();
    assert_eq!(set.messages(), open_is(0));
}

#[test]
fn bytes_go_both_ways() {
    let set = Set::opened();
    let mut stream = set.connect();
    set.messages();
    stream.write_all(b"ping").unwrap();
    assert_eq!(set.receive(4).unwrap(), b"ping");
    set.send(5, b"pong");
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"pong");
}

#[test]
fn answer_reaches_a_program_that_sends_no_more() {
    let set = Set::opened();
    let mut stream = set.connect();
    set.messages();
    stream.write_all(b"date?").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(set.receive(4).unwrap(), b"date?");
    assert_eq!(set.receive(4), None);
    set.settle();
    assert_eq!(set.messages(), [], "still connected");
    set.send(5, b"today");
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"today");
}

#[test]
fn bytes_of_a_program_that_has_left_are_delivered_before_its_end_is() {
    let set = Set::opened();
    let mut stream = set.connect();
    set.messages();
    set.say(1, PORT_OPEN, 0);
    stream.write_all(b"last words").unwrap();
    drop(stream);
    set.settle();
    assert_eq!(set.messages(), []);
    assert_eq!(set.receive(4), None, "nobody has the port open");
    set.say(1, PORT_OPEN, 1);
    set.settle();
    assert_eq!(set.receive(4).unwrap(), b"last words");
    assert_eq!(set.receive(4), None);
    set.settle();
    assert_eq!(set.messages(), open_is(0));
}

#[test]
fn program_that_left_without_a_word_is_forgotten_before_the_guest_opens() {
    let set = Set::opened();
    set.say(1, PORT_OPEN, 0);
    let stream = set.connect();
    assert_eq!(set.messages(), open_is(1));
    drop(stream);
    set.settle();
    assert_eq!(set.messages(), open_is(0));
}

#[test]
fn next_connection_waits_until_the_guest_knows_of_the_end() {
    let set = Set::opened();
    let first = set.connect();
    set.messages();
    let _second = set.connect();
    drop(first);
    set.settle();
    assert_eq!(set.receive(4), None);
    set.settle();
    assert_eq!(set.messages(), open_is(0));
    set.settle();
    assert_eq!(set.messages(), open_is(1));
}

#[test]
fn host_that_does_not_read_stops_the_guest_at_one_request() {
    let set = Set::opened();
    let mut stream = set.connect();
    set.messages();
    set.memory.write(BUFFER, &[7; 4]).unwrap();
    let megabyte = vec![7; MAX_REQUEST];
    set.send(5, &megabyte);
    assert!(!set.ports.ready(5));
    let mut bytes = vec![0; MAX_REQUEST];
    let reader = std::thread::spawn(move || {
        stream.read_exact(&mut bytes).unwrap();
        bytes
    });
    crate::virtio::testing::wait(|| set.ports.ready(5));
    assert!(reader.join().unwrap() == megabyte);
}

#[test]
fn request_for_a_program_that_left_is_gone_without_a_driver() {
    let set = Set::opened();
    let stream = set.connect();
    set.messages();
    set.send(5, &vec![7; MAX_REQUEST]);
    set.ports.stopped();
    drop(stream);
    set.settle();
    let state = set.ports.ports[0].lock();
    assert_eq!(state.sent, state.outgoing.len());
    let watched = state.watched().unwrap().1;
    assert_eq!(watched, PollFlags::IN, "for the next connection");
}

#[test]
fn reset_guest_is_told_everything_anew() {
    let set = Set::opened();
    let _stream = set.connect();
    set.messages();
    set.ports.stopped();
    assert_eq!(set.messages(), []);
    set.say(0, DEVICE_READY, 1);
    set.say(1, PORT_READY, 1);
    let told: Vec<_> = set.messages().into_iter().map(|m| m.1).collect();
    assert_eq!(told, [1, 7, 6]);
}

#[test]
fn nonsense_in_control_messages_is_passed_over() {
    let set = Set::opened();
    set.send(CONTROL_TRANSMIT, b"1234567");
    set.say(0, PORT_OPEN, 1);
    set.say(2, PORT_READY, 1);
    set.say(u32::MAX, PORT_READY, 1);
    set.say(1, 99, 1);
    set.send(CONTROL_TRANSMIT, &[0xff; 4096]);
    assert_eq!(set.messages(), []);
    assert!(!set.ports.ready(0) && !set.ports.ready(1), "port 0 is none");
}

#[test]
fn file_gets_what_the_guest_writes_behind_what_it_had() {
    let set = Set::new(&["log"], |folder| {
        fs::write(folder.join("log"), "a").unwrap()
    });
    set.say(0, DEVICE_READY, 1);
    set.say(1, PORT_READY, 1);
    assert_eq!(set.messages()[2..], open_is(1));
    set.send(5, b"bc");
    assert_eq!(fs::read(set.folder.join("log")).unwrap(), b"abc");
}

#[test]
fn socket_of_our_own_goes_with_the_port() {
    let path = std::env::temp_dir().join(format!("cottage-socket-{}", std::process::id()));
    let port = port::Port {
        name: "a".to_owned(),
        path: path.clone(),
    };
    let ports = Ports::open(&[port], |_| ()).unwrap();
    assert!(path.exists());
    drop(ports);
    assert!(!path.exists());
}

#[test]
fn socket_left_behind_is_replaced() {
    let set = Set::new(&["a"], |folder| {
        drop(UnixListener::bind(folder.join("a")).unwrap())
    });
    set.say(0, DEVICE_READY, 1);
    set.say(1, PORT_READY, 1);
    let _stream = set.connect();
    assert_eq!(set.messages()[2..], open_is(1));
}

#[test]
fn socket_that_somebody_listens_on_is_connected_to() {
    let mut listener = None;
    let set = Set::new(&["a"], |folder| {
        listener = Some(UnixListener::bind(folder.join("a")).unwrap());
    });
    let (mut stream, _) = listener.unwrap().accept().unwrap();
    set.send(5, b"hello");
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
}

#[test]
fn directory_is_no_port() {
    let folder = std::env::temp_dir();
    let port = port::Port {
        name: "d".to_owned(),
        path: folder,
    };
    let text = Ports::open(&[port], |_| ()).unwrap_err().to_string();
    assert!(text.contains("--port d="), "{text}");
}
