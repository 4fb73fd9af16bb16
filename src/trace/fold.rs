//! Repeats into one: `A A A` into `A x 3`, and `A B A B A B` into `A x 3, B x 3`.
//!
//! A guest that prints, polls or walks a table of registers makes hundreds of exits that differ in nothing
//! a reader wants to know. What counts as the same is the item's own to say.
//!
//! Bounded: it holds two periods of the longest pattern, and one item a slot of the pattern that is
//! running; what repeats is absorbed. Read next: [`super::text`].

use std::collections::VecDeque;

/// The longest pattern that is recognised: an index register, its window, and both again.
const LONGEST: usize = 4;

/// What can be folded.
pub trait Same {
    /// Whether `next` is `self` again.
    fn is_again(&self, next: &Self) -> bool;
    /// Takes `next` into the account.
    fn absorb(&mut self, next: Self);
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folded<T> {
    /// It came once.
    Once(T),
    /// These came in turn, each so many times.
    InTurn(Vec<(T, u64)>),
}

/// The folder.
#[derive(Debug)]
pub struct Fold<T> {
    /// Not yet known to be part of a pattern, oldest first.
    held: VecDeque<T>,
    /// The pattern that is running, if it is not empty.
    pattern: Vec<(T, u64)>,
    /// Which slot is expected next.
    next: usize,
}

impl<T> Default for Fold<T> {
    fn default() -> Self {
        Self {
            held: VecDeque::new(),
            pattern: Vec::new(),
            next: 0,
        }
    }
}

impl<T: Same> Fold<T> {
    /// Takes an item; `tell` gets what is complete now.
    pub fn push(&mut self, item: T, tell: &mut impl FnMut(Folded<T>)) {
        if let Some((slot, count)) = self.pattern.get_mut(self.next) {
            if slot.is_again(&item) {
                slot.absorb(item);
                *count += 1;
                self.next = (self.next + 1) % self.pattern.len();
                return;
            }
            self.flush(tell);
        }
        self.held.push_back(item);
        if let Some(period) = (1..=LONGEST).find(|period| self.repeats(*period)) {
            let before = self.held.len() - 2 * period;
            for single in self.held.drain(..before) {
                tell(Folded::Once(single));
            }
            let again = self.held.split_off(period);
            for (mut first, second) in self.held.drain(..).zip(again) {
                first.absorb(second);
                self.pattern.push((first, 2));
            }
            self.next = 0;
        } else if self.held.len() >= 2 * LONGEST
            && let Some(oldest) = self.held.pop_front()
        {
            tell(Folded::Once(oldest));
        }
    }

    /// Tells all that is held.
    pub fn flush(&mut self, tell: &mut impl FnMut(Folded<T>)) {
        if !self.pattern.is_empty() {
            self.next = 0;
            tell(Folded::InTurn(std::mem::take(&mut self.pattern)));
        }
        for single in self.held.drain(..) {
            tell(Folded::Once(single));
        }
    }

    /// Whether the last `period` items are those before them again.
    fn repeats(&self, period: usize) -> bool {
        let last = self.held.iter().rev().take(period);
        let before = self.held.iter().rev().skip(period).take(period);
        self.held.len() >= 2 * period && last.zip(before).all(|(b, a)| a.is_again(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Same for char {
        fn is_again(&self, next: &Self) -> bool {
            self == next
        }
        fn absorb(&mut self, _next: Self) {}
    }

    fn folded(text: &str) -> String {
        let (mut fold, mut out) = (Fold::default(), String::new());
        let mut tell = |folded| match folded {
            Folded::Once(c) => out.push(c),
            Folded::InTurn(slots) => {
                let slots: Vec<_> = slots.iter().map(|(c, n)| format!("{c}{n}")).collect();
                out += &format!("({})", slots.join(" "));
            }
        };
        for c in text.chars() {
            fold.push(c, &mut tell);
            assert!(fold.held.len() < 2 * LONGEST && fold.pattern.len() <= LONGEST);
        }
        fold.flush(&mut tell);
        assert!(fold.held.is_empty() && fold.pattern.is_empty());
        out
    }

    #[test]
    fn runs_and_alternations_fold() {
        assert_eq!(folded("aaaa"), "(a4)");
        assert_eq!(folded("ababab"), "(a3 b3)");
        assert_eq!(folded("xabcdabcdy"), "x(a2 b2 c2 d2)y");
    }

    #[test]
    fn what_does_not_repeat_stays_in_order() {
        assert_eq!(folded("abcdefghijkl"), "abcdefghijkl");
        assert_eq!(folded(""), "");
        assert_eq!(folded("abacabad"), "abacabad");
    }

    #[test]
    fn a_pattern_that_breaks_in_the_middle_is_counted_exactly() {
        assert_eq!(folded("ababax"), "(a3 b2)x");
        assert_eq!(folded("aabb"), "(a2)(b2)");
        assert_eq!(folded("ababcdcd"), "(a2 b2)(c2 d2)");
    }

    #[test]
    fn nothing_is_lost_whatever_comes() {
        for seed in 0..2000_u32 {
            let mut state = seed;
            let text: String = (0..40)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    ['a', 'b', 'c'][(state >> 24) as usize % 3]
                })
                .collect();
            let (mut fold, mut count) = (Fold::default(), 0);
            let mut tell = |folded| match folded {
                Folded::Once(_) => count += 1,
                Folded::InTurn(slots) => count += slots.iter().map(|(_, n)| n).sum::<u64>(),
            };
            text.chars().for_each(|c| fold.push(c, &mut tell));
            fold.flush(&mut tell);
            assert_eq!(count, 40, "{text}");
        }
    }
}
