//! What a trace tells: values, in the order in which things happened.
//!
//! They hold words already, made by [`super::registers`], [`super::virtio`] and [`super::calls`]; how
//! these are written down is up to [`super::text`], [`super::jsonl`] and [`super::perfetto`].
//! Read next: [`super::registers`].

use std::borrow::Cow;
use std::sync::Arc;

use crate::cli::trace::TopicArg;
use crate::timeline::Nanos;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// KVM's calls.
    Ioctls,
    /// VM exits.
    Exits,
    /// What lies where.
    Memory,
    /// Interrupts.
    Irq,
    /// What drivers do.
    Devices,
    /// Stages.
    Boot,
}

impl Topic {
    const ALL: [(Self, TopicArg, &'static str); 6] = [
        (Self::Ioctls, TopicArg::Ioctls, "ioctls"),
        (Self::Exits, TopicArg::Exits, "exits"),
        (Self::Memory, TopicArg::Memory, "memory"),
        (Self::Irq, TopicArg::Irq, "irq"),
        (Self::Devices, TopicArg::Devices, "devices"),
        (Self::Boot, TopicArg::Boot, "boot"),
    ];

    /// The word of `--trace`.
    pub fn word(self) -> &'static str {
        let mut all = Self::ALL.iter();
        all.find(|(topic, ..)| *topic == self)
            .map_or("", |(.., word)| word)
    }
}

/// Which topics are wanted.
#[derive(Clone, Debug)]
pub struct Topics(Vec<Topic>);

impl Topics {
    /// Those of the command line.
    pub fn of(args: &[TopicArg]) -> Self {
        let wanted = |arg| args.contains(&TopicArg::All) || args.contains(arg);
        let all = Topic::ALL.iter().filter(|(_, arg, _)| wanted(arg));
        Self(all.map(|(topic, ..)| *topic).collect())
    }

    /// Whether `topic` is wanted.
    pub fn want(&self, topic: Topic) -> bool {
        self.0.contains(&topic)
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it began.
    pub since: Nanos,
    /// When it was over; the same for what takes no time.
    pub until: Nanos,
    /// What it is about.
    pub topic: Topic,
    /// On which processor, if on one.
    pub vcpu: Option<u32>,
    /// What it was.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum What {
    /// Said by words alone.
    Note(String),
    /// A call of KVM's.
    Call {
        /// Its name.
        name: &'static str,
        /// What was asked.
        words: String,
        /// What came back.
        result: String,
    },
    /// A VM exit and its answer.
    Exit(Box<Exit>),
}

/// A VM exit; `since` is when the guest had stopped, `until` when it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exits are counted from 1, over all processors.
    pub number: u64,
    /// `out`, `in`, `mmio-write`, `mmio-read`, or what else it was.
    pub kind: &'static str,
    /// Port or guest-physical address.
    pub address: Option<u64>,
    /// Bytes of one access.
    pub size: u8,
    /// Who answers there; `-` if nobody.
    pub device: &'static str,
    /// The device's register.
    pub register: Cow<'static, str>,
    /// Which of several registers of that name.
    pub index: Option<u32>,
    /// What was written, or read.
    pub value: Option<u64>,
    /// What that means.
    pub meaning: String,
    /// Characters the guest prints; then repeats may have different ones.
    pub text: Option<Vec<u8>>,
    /// The instruction.
    pub place: Option<Arc<Place>>,
    /// Time in the guest before it, as far as KVM_RUN can tell: KVM's own part is in it.
    pub guest: Nanos,
}

/// Where in the guest's code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Address of the instruction, or of the next one if that is not found.
    pub rip: u64,
    /// The instruction as text, if found.
    pub instruction: Option<String>,
    /// `function+0x12`.
    pub symbol: Option<String>,
}
