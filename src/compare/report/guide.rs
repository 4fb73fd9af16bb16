//! What a reader who has never seen such a chart needs: how to read it, and how not to.
//!
//! Read next: [`super::text`].

/// Words for one topic.
#[derive(Clone, Copy, Debug)]
pub struct Guide {
    /// How to read its charts.
    pub reading: &'static str,
    /// What people take them for.
    pub misreading: &'static str,
}

const START: Guide = Guide {
    reading: "Each dot is one start; left is faster. The box holds the middle eight tenths of the starts, \
              the line in it is the median. The floor on top is a process that the kernel starts with \
              nothing around it: nobody can be faster. In the bars below, the same time is cut into who \
              spent it.",
    misreading: "\"A VM boots slowly\": what is slow is mostly what boots in it. Compare the guest's kernel \
                 and processes with the rest of the bar before you blame the VM.",
};
const MEMORY: Guide = Guide {
    reading: "Each line shows how much memory is taken when more and more instances run side by side. What \
              one more costs is how steep it is, which the number at the right says; where it begins is \
              what is paid once.",
    misreading: "\"A VM with 128 MiB takes 128 MiB\": that is what it may take. The host gives memory when the \
                 guest touches it.",
};
const DISK: Guide = Guide {
    reading: "Each dot is a size; left is smaller. What is installed once for all (engine, VMM, kernel) and \
              what each instance adds stand in different charts: add them up for as many instances as you \
              mean to run.",
    misreading: "\"A container is a few MB, a VM gigabytes\": the same root file system has the same size on \
                 both sides; the rest of the gigabytes is an installed distribution.",
};
const DENSITY: Guide = Guide {
    reading: "Right is more. Measured is what really ran side by side; what is called EXTRAPOLATED is that, \
              carried on along a straight line to a limit that is named.",
    misreading: "\"So many fit\": so many idle ones fit. Programs that work fill processors and memory long \
                 before.",
};
const ISOLATION: Guide = Guide {
    reading: "Under each property stand the answers, each with the sides that gave it. Sides that give the \
              host's own answer share its kernel. The first table asks whose kernel it is, the second what \
              a program inside could attack.",
    misreading: "\"More system calls pass, so it is less safe\": a VM lets all pass, but to another kernel. \
                 There is no single score, and none is given.",
};
const COST: Guide = Guide {
    reading: "Left is cheaper. Where the boxes of two sides stand above each other, no difference was \
              resolved, however different the medians look.",
    misreading: "\"Containers are native, VMs are emulated\": a guest's programs and system calls run on the \
                 processor as the host's do; what costs is leaving the guest, for a disk or a network.",
};
const KERNELS: Guide = Guide {
    reading: "Under each property stand the answers, each with the sides that gave it.",
    misreading: "\"Containers with different distributions have different kernels\": they have different \
                 files, above the same kernel.",
};
const HYBRID: Guide = Guide {
    reading: "As for the start: a dot is a run, left is faster. The combination pays for both, one after the \
              other.",
    misreading: "\"It is one or the other\": clouds run containers inside of VMs.",
};

/// Words for `topic`; none for an unknown one.
pub fn of(topic: &str) -> Option<&'static Guide> {
    Some(match topic {
        "start" => &START,
        "memory" => &MEMORY,
        "disk" => &DISK,
        "density" => &DENSITY,
        "isolation" => &ISOLATION,
        "cost" => &COST,
        "kernels" => &KERNELS,
        "hybrid" => &HYBRID,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::compare::Topic;

    #[test]
    fn every_topic_has_its_words() {
        assert!(Topic::ALL.iter().all(|topic| of(topic.name()).is_some()));
        assert!(of("weather").is_none());
    }
}
