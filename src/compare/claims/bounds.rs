//! Ranges and bounds: when a claim holds for one side.
//!
//! A side's range is the one that comparisons go by (p10 to p90 of its rounds). Wholly within the
//! bounds, the claim holds for it; wholly outside, it does not; across a bound, nothing is said. A
//! ratio's range is from the least to the most that both ranges allow. Emulation only slows, so where
//! sides are emulated, "at least so slow" is never found true of them, nor "at most" false.
//! Read next: [`super::verdict`].

use super::rule::Quantity;
use crate::compare::relation::Range;
use crate::compare::side::Kind;

/// At least, and at most.
pub(super) type Bounds = (Option<Quantity>, Option<Quantity>);

/// Who is slowed by emulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulated {
    /// Nobody.
    None,
    /// Kernels of guests.
    Guests,
    /// The whole machine.
    All,
}

/// Whether it holds for one side.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum One {
    Yes,
    No,
    /// Why not.
    Open(String),
}

/// From the least to the most that `other` can be beside `own`.
pub(super) fn ratio(other: &Range, own: &Range) -> Result<Range, String> {
    if own.low <= 0.0 || other.low <= 0.0 {
        return Err("of 0 there is no ratio".to_owned());
    }
    Ok(Range {
        n: other.n.min(own.n),
        min: other.min / own.max,
        low: other.low / own.high,
        middle: other.middle / own.middle,
        high: other.high / own.low,
        max: other.max / own.min,
    })
}

/// Whether all of `range` is within the bounds, or none of it.
pub(super) fn within(range: &Range, (at_least, at_most): Bounds) -> One {
    let least = at_least.map_or(f64::NEG_INFINITY, |bound| bound.value);
    let most = at_most.map_or(f64::INFINITY, |bound| bound.value);
    if least <= range.low && range.high <= most {
        One::Yes
    } else if range.high < least || most < range.low {
        One::No
    } else {
        One::Open("its range lies across the bound".to_owned())
    }
}

/// Takes back what emulation may have caused.
pub(super) fn honest(
    one: One,
    (at_least, at_most): Bounds,
    slowed: bool,
    emulated: Emulated,
    kind: Kind,
) -> One {
    let slowed = slowed
        && match emulated {
            Emulated::None => false,
            Emulated::Guests => kind == Kind::Vm,
            Emulated::All => true,
        };
    let by_emulation = match one {
        One::Yes => at_least.is_some(),
        One::No => at_most.is_some(),
        One::Open(_) => false,
    };
    if slowed && by_emulation {
        return One::Open("emulation may be why it took so long".to_owned());
    }
    one
}
