//! From values to places on a chart, in percent of its width, so that a chart fits any screen.
//!
//! Read next: [`super::chart`].

/// Sides whose middles differ by more than this get an axis of factors.
const LOG_FROM: f64 = 20.0;
/// Where the axis begins, in percent, so that marks at its ends are not cut.
const LEFT: f64 = 1.5;
/// How long it is, in percent.
const LENGTH: f64 = 97.0;
/// Marks with figures on it, at most.
const TICKS: f64 = 6.0;

/// An axis, in the unit of its chart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    from: f64,
    to: f64,
    log: bool,
}

impl Axis {
    /// For `values`, all there are to show, and the `middles` of sides: from 0, or a small difference
    /// would look like a large one; of factors where the sides differ by more than twenty times.
    pub fn of(values: &[f64], middles: &[f64]) -> Self {
        let (least, most) = ends(values);
        let (low, high) = ends(middles);
        if least > 0.0 && high > LOG_FROM * low {
            let power = |value: f64, round: fn(f64) -> f64| 10.0_f64.powf(round(value.log10()));
            return Self {
                from: power(least, f64::floor),
                to: power(most, f64::ceil),
                log: true,
            };
        }
        let from = least.min(0.0);
        Self {
            from,
            to: most.max(from + f64::EPSILON),
            log: false,
        }
    }

    /// Whether equal distances are equal factors.
    pub fn log(&self) -> bool {
        self.log
    }

    /// How many times as much each mark is as the one before, if they are factors.
    pub fn factor(&self) -> Option<f64> {
        self.log.then(|| 10.0_f64.powf(self.decades_a_mark()))
    }

    fn decades_a_mark(&self) -> f64 {
        let decades = (self.to / self.from).log10().round();
        (decades / TICKS).ceil().max(1.0)
    }

    /// Where `value` is, in percent.
    pub fn place(&self, value: f64) -> f64 {
        let part = if self.log {
            (value / self.from).log10() / (self.to / self.from).log10()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        LEFT + LENGTH * part.clamp(0.0, 1.0)
    }

    /// Round values on it, with their figures.
    pub fn ticks(&self) -> Vec<(f64, String)> {
        if self.log {
            return self.powers();
        }
        let length = self.to - self.from;
        let power = 10.0_f64.powf((length / TICKS).log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
        let step = steps.into_iter().find(|step| length / step <= TICKS);
        let step = step.unwrap_or(length);
        // Not more decimals than the step has.
        let decimals = (0..12).find(|n| (step * 10.0_f64.powi(*n)).fract().abs() < 1e-6);
        let decimals = usize::try_from(decimals.unwrap_or(0)).unwrap_or(0);
        let first = (self.from / step).ceil();
        (0..32)
            .map(|n| (first + f64::from(n)) * step)
            .take_while(|at| *at <= self.to * (1.0 + 1e-9))
            .map(|at| (at, format!("{at:.decimals$}")))
            .collect()
    }

    /// Powers of ten, every one or every second or third.
    fn powers(&self) -> Vec<(f64, String)> {
        let decades = (self.to / self.from).log10().round();
        let step = self.decades_a_mark();
        (0..32)
            .map(|n| f64::from(n) * step)
            .take_while(|power| *power <= decades)
            .map(|power| {
                let at = self.from * 10.0_f64.powf(power);
                (at, super::words::significant(at, 1))
            })
            .collect()
    }
}

/// The least and the most of `values`; 0 of none.
fn ends(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().reduce(f64::min).unwrap_or(0.0);
    let most = values.iter().copied().reduce(f64::max).unwrap_or(0.0);
    (least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(axis: &Axis) -> Vec<String> {
        axis.ticks().into_iter().map(|(_, figure)| figure).collect()
    }

    #[test]
    fn sides_alike_get_an_axis_from_zero() {
        let axis = Axis::of(&[100.0, 250.0], &[120.0, 240.0]);
        assert!(!axis.log());
        assert_eq!(figures(&axis), ["0", "50", "100", "150", "200", "250"]);
        let near = |place: f64, wanted: f64| (place - wanted).abs() < 1e-9;
        assert!(near(axis.place(0.0), LEFT) && near(axis.place(250.0), LEFT + LENGTH));
        let small = Axis::of(&[0.3], &[0.3]);
        assert_eq!(
            figures(&small),
            ["0.00", "0.05", "0.10", "0.15", "0.20", "0.25", "0.30"]
        );
    }

    #[test]
    fn sides_far_apart_get_an_axis_of_factors() {
        let axis = Axis::of(&[0.09, 0.1, 251.0], &[0.1, 250.0]);
        assert!(axis.log());
        assert_eq!(axis.factor(), Some(10.0));
        assert_eq!(figures(&axis), ["0.01", "0.1", "1", "10", "100", "1000"]);
        assert!((axis.place(1.0) - (LEFT + LENGTH * 0.4)).abs() < 1e-9);
    }

    #[test]
    fn zero_has_no_place_on_an_axis_of_factors() {
        assert!(!Axis::of(&[0.0, 251.0], &[0.0, 250.0]).log());
    }

    #[test]
    fn odd_values_have_places_too() {
        for values in [&[][..], &[0.0], &[-5.0, 5.0], &[1e-9], &[1e18]] {
            let axis = Axis::of(values, values);
            assert!(
                values.iter().all(|value| axis.place(*value).is_finite()),
                "{values:?}"
            );
            assert!(axis.ticks().len() < 12, "{values:?}: {:?}", axis.ticks());
        }
    }
}
