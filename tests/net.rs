//! Network cards, driven by a real kernel's driver, at the tap device of a network of their own.
//!
//! Each test has a network namespace, in which it is root and nobody's network is touched. The
//! host's side of a network is played by busybox.

#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::process::{Command, Stdio};

use support::program::{Finished, Scratch, finish, program};
use support::{linux_kvm, passt, skip};

/// Makes a tap device that is $1, with the address 10.0.0.1, or 10.0.1.1 for the second, and so on.
const TAP: &str = "\
taps=0
tap() {
  ip tuntap add $1 mode tap 2>/dev/null || tunctl -t $1 >/dev/null
  ip address add 10.0.$taps.1/24 dev $1
  ip link set $1 up
  taps=$((taps + 1))
}
";

/// Whether a network can be had here to test on.
fn ready() -> bool {
    if linux_kvm().is_none() {
        return false;
    }
    let works = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !works(&["unshare", "-r", "-n", "true"]) || !works(&["busybox", "true"]) {
        return skip::<()>(
            "any",
            "it needs busybox, and unshare(1) with user namespaces",
        )
        .is_some();
    }
    true
}

/// Runs `host` in a network of its own and then the machine: the full kernel
/// with `flags`, running the shell line `line`.
fn network(files: &Scratch, host: &str, flags: &[&str], line: &str) -> Finished {
    let script = format!(
        "set -e\n{TAP}\
         cd {}\n\
         {host}\n\
         status=0\n\
         \"$@\" || status=$?\n\
         kill $(jobs -p) 2>/dev/null || true\n\
         exit $status",
        files.path("")
    );
    let mut command = Command::new("unshare");
    command
        .args(["-r", "-n", "sh", "-c", &script, "sh"])
        .arg(program())
        .args(["run", "--memory", "256M"])
        .args(flags)
        .args(["--", "sh", "-c", line]);
    finish(command, b"")
}

/// 3 MiB that are no repetition.
fn content() -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        // Numerical Recipes' generator.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..3 << 20).map(|_| next()).collect()
}

/// Shell functions of a guest: `frames rx` or `frames tx` begins to count what its card receives or
/// sends, `large` says whether the mean frame since then was longer than any that is cut to 1500
/// bytes. While bytes go in one direction alone, acknowledgements do not count.
const FRAMES: &str = "\
    stat() { cat /sys/class/net/eth0/statistics/${way}_$1; }; \
    frames() { way=$1; bytes=$(stat bytes); packets=$(stat packets); }; \
    large() { mean=$((($(stat bytes) - bytes) / ($(stat packets) - packets))); \
        [ $mean -gt 1514 ] && echo large || echo mean $way frame: $mean bytes; }; ";

#[test]
fn bytes_arrive_in_both_directions_and_travel_in_large_frames() {
    if !ready() {
        return;
    }
    let files = Scratch::new();
    fs::create_dir(files.path("www")).unwrap();
    files.file("www/file", &content());
    let run = network(
        &files,
        "tap tap0\n\
         busybox httpd -f -p 10.0.0.1:8000 -h www &\n\
         (until busybox wget -q -O upload http://10.0.0.2:8000/file; do sleep 1; done) &",
        &["--net", "tap=tap0,ip=10.0.0.2/24,gw=10.0.0.1"],
        &format!(
            "{FRAMES} ping -c 3 -q 10.0.0.1 >/dev/null && echo reached; \
             frames rx; wget -q -O /tmp/file http://10.0.0.1:8000/file; large; \
             sha256sum </tmp/file; \
             frames tx; httpd -p 8000 -h /tmp; \
             until [ $(stat bytes) -gt $((bytes + 3145728)) ]; do sleep 1; done; large; \
             while netstat -tn 2>/dev/null | grep -q ESTABLISHED; do sleep 1; done; \
             ip route show | grep default"
        ),
    )
    .expect_code(0);
    let sum = Command::new("sha256sum")
        .arg(files.path("www/file"))
        .output();
    let sum = String::from_utf8(sum.unwrap().stdout).unwrap();
    let sum = sum.split_whitespace().next().unwrap();
    run.expect_stdout(&format!(
        "reached\nlarge\n{sum}  -\nlarge\ndefault via 10.0.0.1 dev eth0 \n"
    ));
    assert!(fs::read(files.path("upload")).unwrap() == content());
}

#[test]
fn forwarded_port_of_passts_leads_to_a_server_in_the_guest() {
    if !ready() {
        return;
    }
    if !passt::is_there() {
        return skip("any", "it needs busybox, passt and curl").unwrap_or_default();
    }
    let files = Scratch::new();
    // passt takes its addresses from the interface with the default route. The file is asked for until
    // the guest's server answers.
    let host = format!(
        "set -e\n{TAP}\
         tap out; ip link set lo up; ip route add default via 10.0.0.254 dev out\n\
         cd {}\n\
         (until busybox wget -q -O fetched http://127.0.0.1:8080/cgi-bin/file 2>/dev/null; do\n\
            sleep 0.5\n\
          done) &\n\
         status=0; \"$@\" || status=$?; kill $! 2>/dev/null || true; exit $status",
        files.path("")
    );
    // It ends when it has been asked once.
    let line = "mkdir -p /www/cgi-bin; \
        printf '#!/bin/sh\\necho; echo from the guest; touch /asked\\n' >/www/cgi-bin/file; \
        chmod +x /www/cgi-bin/file; httpd -p 80 -h /www; \
        ip -4 -o address show eth0 | grep -o 10.0.0.1/24; \
        until [ -e /asked ]; do sleep 0.2; done; sleep 1";
    let mut command = passt::in_a_network(&host);
    command
        .arg(program())
        .arg("run")
        .args(["--memory", "256M", "--net", "user,forward=tcp:8080:80"])
        .args(["--", "sh", "-c", line])
        .current_dir(files.path(""));
    finish(command, b"")
        .expect_code(0)
        .expect_stdout("10.0.0.1/24\n");
    let fetched = fs::read_to_string(files.path("fetched")).unwrap();
    assert_eq!(fetched, "from the guest\n");
}

#[test]
fn guest_gets_its_address_by_dhcp() {
    if !ready() {
        return;
    }
    let files = Scratch::new();
    let lease = files.path("leases");
    files.file(
        "udhcpd.conf",
        format!(
            "start 10.0.0.77\nend 10.0.0.77\ninterface tap0\nlease_file {lease}\npidfile {lease}.pid\n\
             option subnet 255.255.255.0\noption router 10.0.0.1\noption dns 10.0.0.53\n"
        )
        .as_bytes(),
    );
    files.file("leases", b"");
    network(
        &files,
        "tap tap0\nbusybox udhcpd -f udhcpd.conf 2>/dev/null &",
        &["--net", "tap=tap0,dhcp"],
        "ip -4 -o address show eth0 | grep -o 10.0.0.77/24; ip route show | grep default; \
         cat /etc/resolv.conf",
    )
    .expect_code(0)
    .expect_stdout("10.0.0.77/24\ndefault via 10.0.0.1 dev eth0 \nnameserver 10.0.0.53\n");
}

#[test]
fn cards_keep_their_order_addresses_and_mtu() {
    if !ready() {
        return;
    }
    let files = Scratch::new();
    network(
        &files,
        "tap one\ntap two\nip link set two mtu 1400",
        &[
            "--net",
            "tap=one",
            "--net",
            "tap=two,mac=52:54:00:12:34:56,ip=10.0.1.2/24",
        ],
        "cd /sys/class/net; for card in eth0 eth1; do echo $(cat $card/address $card/mtu); done; \
         ping -c 1 -q 10.0.1.1 >/dev/null && echo reached",
    )
    .expect_code(0)
    .expect_stdout("02:63:74:67:00:00 1500\n52:54:00:12:34:56 1400\nreached\n");
}

#[test]
fn card_works_again_when_its_driver_was_taken_off() {
    if !ready() {
        return;
    }
    let files = Scratch::new();
    network(
        &files,
        "tap tap0",
        &["--net", "tap=tap0,ip=10.0.0.2/24"],
        "cd /sys/bus/virtio/drivers/virtio_net; device=$(ls -d virtio?*); \
         for round in 1 2 3; do \
         ping -c 1 -q 10.0.0.1 >/dev/null && echo reached; \
         echo $device >unbind; echo $device >bind; \
         ip address add 10.0.0.2/24 dev eth0; ip link set eth0 up; \
         done; ping -c 1 -q 10.0.0.1 >/dev/null && echo reached",
    )
    .expect_code(0)
    .expect_stdout("reached\nreached\nreached\nreached\n");
}

#[test]
fn network_without_a_server_is_told_of_and_the_command_runs() {
    if !ready() {
        return;
    }
    let files = Scratch::new();
    let run = network(
        &files,
        "tap tap0",
        &["--net", "tap=tap0,dhcp"],
        "echo goes on",
    );
    run.expect_code(0)
        .expect_stdout("cottage: eth0: got no address by DHCP\ngoes on\n");
}

#[test]
fn device_that_vanishes_is_told_of_and_the_guest_goes_on() {
    if !ready() {
        return;
    }
    let files = Scratch::new();
    network(
        &files,
        "tap tap0\n(sleep 1; until ip neigh show dev tap0 | grep -q 10.0.0.2; do sleep 0.2; done; \
         ip link del tap0) &",
        &["--net", "tap=tap0,ip=10.0.0.2/24"],
        "ping -c 1 -q 10.0.0.1 >/dev/null; ping -c 5 -q 10.0.0.1 >/dev/null; echo goes on",
    )
    .expect_code(0)
    .expect_stdout("goes on\n")
    .expect_stderr("virtio-net tap0: the network is gone");
}
