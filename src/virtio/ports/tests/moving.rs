//! Ports whose guest goes on in another cottage.

use rustix::fs::{CWD, Mode};

use super::*;

/// What `set` remembers goes to `other`, as text.
fn move_to(set: &Set, other: &Set) -> Result<(), Unfit> {
    let text = serde_json::to_string(&set.ports.save()).unwrap();
    set.ports.stopped();
    other.ports.restore(serde_json::from_str(&text).unwrap())
}

#[test]
fn connection_is_over_elsewhere_and_the_next_is_another() {
    let set = Set::opened();
    let mut stream = set.connect();
    set.messages();
    stream.write_all(b"last words").unwrap();
    let none = Buffers {
        memory: &set.memory,
        chains: &[],
    };
    set.ports
        .inbox(4)
        .unwrap()
        .fetch(F_MULTIPORT, &none)
        .unwrap();
    let other = Set::new(&["a"], |_| ());
    move_to(&set, &other).unwrap();
    // Somebody is quick; the guest hears of both, one after the other.
    let mut stream = other.connect();
    assert_eq!(other.messages(), open_is(0));
    assert_eq!(other.receive(4).unwrap(), b"last words");
    stream.write_all(b"hello").unwrap();
    other.settle();
    assert_eq!(other.messages(), open_is(1));
    assert_eq!(other.receive(4).unwrap(), b"hello");
    other.send(5, b"pong");
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"pong");
}

#[test]
fn connection_made_at_the_start_is_not_taken_for_the_one_before() {
    let listening = |folder: &PathBuf| UnixListener::bind(folder.join("a")).unwrap();
    let mut listeners = Vec::new();
    let set = Set::new(&["a"], |folder| listeners.push(listening(folder)));
    set.say(0, DEVICE_READY, 1);
    set.say(1, PORT_READY, 1);
    let known = set.messages();
    assert_eq!(known.last(), open_is(1).last());
    let other = Set::new(&["a"], |folder| listeners.push(listening(folder)));
    move_to(&set, &other).unwrap();
    assert_eq!(other.messages(), [open_is(0), open_is(1)].concat());
}

#[test]
fn bytes_on_their_way_to_a_fifo_arrive_elsewhere() {
    let fifo = |folder: &PathBuf| {
        rustix::fs::mkfifoat(CWD, folder.join("a"), Mode::from_raw_mode(0o600)).unwrap();
    };
    let set = Set::new(&["a"], fifo);
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    // More than a FIFO holds.
    set.send(5, &bytes);
    let mut first = fs::File::open(set.folder.join("a")).unwrap();
    let other = Set::new(&["a"], fifo);
    let DeviceState::Ports(states) = set.ports.save() else {
        panic!("ports remember ports");
    };
    let waits = states[0].outgoing.len();
    assert!(waits > 0 && waits < bytes.len());
    move_to(&set, &other).unwrap();
    let mut second = fs::File::open(other.folder.join("a")).unwrap();
    other.settle();
    assert!(other.ports.ready(5));
    let mut arrived = vec![0; bytes.len()];
    let (before, after) = arrived.split_at_mut(bytes.len() - waits);
    first.read_exact(before).unwrap();
    second.read_exact(after).unwrap();
    assert!(arrived == bytes);
}

#[test]
fn ports_of_other_names_or_with_too_much_are_not_gone_on_with() {
    let set = Set::opened();
    let error = move_to(&set, &Set::new(&["b"], |_| ())).unwrap_err();
    assert!(error.to_string().contains("other names"), "{error}");
    let mut state = set.ports.save();
    if let DeviceState::Ports(states) = &mut state {
        states[0].outgoing = vec![0; MAX_REQUEST + 1];
    }
    assert!(set.ports.restore(state).is_err());
}
