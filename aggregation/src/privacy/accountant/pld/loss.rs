//! The privacy loss of one step, and its reduction to a grid that is never kinder.

use crate::privacy::accountant::{Mechanism, log_sum_exp};
use crate::units::real;

/// Which of two neighbouring data sets the observer would like to be sure of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// The patient's data were there: the mixture against the plain Gaussian.
    Removed,
    /// They were not: the plain Gaussian against the mixture.
    Added,
}

/// Points of the trapezoid rule behind [`Loss::log_moment`], at most.
const QUADRATURE: u64 = 8_192;

/// The loss of one step in one direction: `ln(P / Q)` under P, where the plain Gaussian is
/// N(0, s^2) and the mixture (1 - q) N(0, s^2) + q N(1, s^2).
#[derive(Debug, Clone, Copy)]
pub(super) struct Loss {
    sigma: f64,
    q: f64,
    direction: Direction,
}

/// Losses on a grid: `mass[i]` at `(first + i) h`, and `infinite` where nothing is promised.
#[derive(Debug, Clone)]
pub(super) struct Masses {
    pub(super) first: i64,
    pub(super) mass: Vec<f64>,
    pub(super) infinite: f64,
}

/// Chances to either side of a point, the smaller one exactly.
#[derive(Clone, Copy)]
struct Sides {
    smaller: f64,
    above: bool,
}

impl Sides {
    fn of(x: f64, mean: f64, sigma: f64) -> Self {
        let deviations = (x - mean) / sigma;
        let smaller = 0.5 * libm::erfc(deviations.abs() * core::f64::consts::FRAC_1_SQRT_2);
        Self { smaller, above: deviations >= 0.0 }
    }

    /// The chance between two points, without cancellation in the tails.
    fn between(self, other: Self) -> f64 {
        if self.above == other.above {
            (self.smaller - other.smaller).abs()
        } else {
            1.0 - self.smaller - other.smaller
        }
    }

    const fn outside(self, upper: bool) -> f64 {
        if self.above == upper { self.smaller } else { 1.0 - self.smaller }
    }
}

/// The chances of both distributions around one point.
#[derive(Clone, Copy)]
struct Point {
    plain: Sides,
    shifted: Sides,
}

impl Loss {
    pub(super) const fn new(mechanism: Mechanism, direction: Direction) -> Self {
        Self { sigma: mechanism.sigma(), q: mechanism.rate().get(), direction }
    }

    /// `ln(mixture / plain)` at x, which rises with x.
    fn log_ratio(self, x: f64) -> f64 {
        let t = (x - 0.5) / (self.sigma * self.sigma);
        if self.q >= 1.0 {
            t
        } else if t > 0.0 {
            t + libm::log(self.q + (1.0 - self.q) * libm::exp(-t))
        } else {
            libm::log1p(self.q * libm::expm1(t))
        }
    }

    /// Where the log ratio is y; -inf when it is above y everywhere.
    fn where_ratio_is(self, y: f64) -> f64 {
        let t = if self.q >= 1.0 {
            y
        } else if y > 0.0 {
            y + libm::log1p((1.0 - self.q) / self.q * -libm::expm1(-y))
        } else {
            libm::log1p((libm::expm1(y) / self.q).max(-1.0))
        };
        self.sigma * self.sigma * t + 0.5
    }

    fn point(self, x: f64) -> Point {
        Point { plain: Sides::of(x, 0.0, self.sigma), shifted: Sides::of(x, 1.0, self.sigma) }
    }

    fn mixture(self, plain: f64, shifted: f64) -> f64 {
        (1.0 - self.q) * plain + self.q * shifted
    }

    /// The chances of P and Q, from the plain one's and the mixture's.
    const fn pair(self, plain: f64, mixture: f64) -> (f64, f64) {
        match self.direction {
            Direction::Removed => (mixture, plain),
            Direction::Added => (plain, mixture),
        }
    }

    /// `ln E[exp(tilt loss)]` under P. It only chooses grids and windows; no bound rests on it.
    ///
    /// Trapezoid rule over x: the integrand is a Gaussian times a smooth power, for which the
    /// rule converges faster than any power of its step.
    pub(super) fn log_moment(self, tilt: f64) -> f64 {
        let (s2, power) = match self.direction {
            Direction::Removed => (self.sigma * self.sigma, tilt + 1.0),
            Direction::Added => (self.sigma * self.sigma, -tilt),
        };
        let from = power.min(0.0) - 12.0 * self.sigma;
        let to = power.max(1.0) + 12.0 * self.sigma;
        let wanted = (to - from) / (self.sigma / 6.0).min(s2 / 2.0);
        let points = if wanted < real(QUADRATURE) { wanted.max(256.0) } else { real(QUADRATURE) };
        let step = (to - from) / points;
        let mut logs = Vec::new();
        let mut x = from;
        while x <= to {
            logs.push(power * self.log_ratio(x) - 0.5 * x * x / s2);
            x += step;
        }
        log_sum_exp(&logs)
            + libm::log(step / (self.sigma * libm::sqrt(2.0 * core::f64::consts::PI)))
    }

    /// The range of losses outside of which P has at most `tail` on either side.
    pub(super) fn range(self, tail: f64) -> (f64, f64) {
        // P(X > z s) <= exp(-z^2 / 2) / 2.
        let reach = self.sigma * libm::sqrt(-2.0 * libm::log(tail));
        match self.direction {
            Direction::Removed => (self.log_ratio(-reach), self.log_ratio(1.0 + reach)),
            Direction::Added => (-self.log_ratio(reach), -self.log_ratio(-reach)),
        }
    }

    /// Losses on the grid of step h, from `range.0` to `range.1` rounded outwards.
    ///
    /// What falls between two grid points is split between them such that its chances under both
    /// P and Q are kept. By convexity the pair so made is at least as easy to tell apart as the
    /// true one, at every epsilon, and stays so under composition ("connect the dots",
    /// [DGK22] section 4). What is below the range goes up to its least point, what is above
    /// counts as lost. Costs about `h^2 a / 12` in epsilon for each step, a being the order that
    /// matters: second order, where rounding up would cost `h / 2`.
    ///
    /// [DGK22]: https://arxiv.org/abs/2207.04380
    pub(super) fn on_grid(self, h: f64, range: (f64, f64)) -> Masses {
        let first = floor(range.0 / h);
        let last = floor(range.1 / h).saturating_add(1).max(first.saturating_add(1));
        let at = |k: i64| match self.direction {
            Direction::Removed => self.point(self.where_ratio_is(signed(k) * h)),
            Direction::Added => self.point(self.where_ratio_is(-signed(k) * h)),
        };
        // Greater losses lie at greater x when the patient was there, at smaller x when not.
        let upwards = self.direction == Direction::Removed;
        let beyond = |point: Point, greater: bool| {
            let upper = greater == upwards;
            let (plain, shifted) = (point.plain.outside(upper), point.shifted.outside(upper));
            self.pair(plain, self.mixture(plain, shifted)).0
        };
        let widths = usize::try_from(last.saturating_sub(first)).unwrap_or(0);
        let mut mass = vec![0.0; widths + 1];
        let mut here = at(first);
        mass[0] = beyond(here, false);
        let kept = -libm::expm1(-h);
        for (cell, k) in (0..widths).zip(first..) {
            let next = at(k + 1);
            let plain = here.plain.between(next.plain);
            let mixture = self.mixture(plain, here.shifted.between(next.shifted));
            let (p, q) = self.pair(plain, mixture);
            // The share that goes up: p kept at y - a = h, nothing at y = a.
            let least = if q > 0.0 { q * libm::exp((signed(k) * h).min(700.0)) } else { 0.0 };
            let up = ((p - least) / kept).clamp(0.0, p);
            mass[cell] += p - up;
            mass[cell + 1] += up;
            here = next;
        }
        Masses { first, mass, infinite: beyond(here, true) }
    }
}

impl Masses {
    /// The logarithms of `mass exp(tilt loss)`.
    pub(super) fn log_tilted(&self, h: f64, tilt: f64) -> Vec<f64> {
        let losses = (self.first..).map(|k| signed(k) * h);
        self.mass.iter().zip(losses).map(|(p, loss)| libm::log(*p) + tilt * loss).collect()
    }
}

/// The grid point at or below.
#[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and callers check the range")]
fn floor(value: f64) -> i64 {
    libm::floor(value) as i64
}

/// A grid point's number as a real one.
#[expect(clippy::cast_precision_loss, reason = "grids have less than 2^53 points")]
const fn signed(k: i64) -> f64 {
    k as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::accountant::vectors::mechanism;

    const CASES: [(f64, f64); 5] = [(1.0, 0.01), (0.5, 0.3), (4.0, 0.999), (2.0, 1.0), (9.0, 1e-6)];

    fn losses() -> impl Iterator<Item = Loss> {
        CASES.into_iter().flat_map(|(sigma, q)| {
            [Direction::Removed, Direction::Added]
                .map(|direction| Loss::new(mechanism(sigma, q), direction))
        })
    }

    #[test]
    fn ratio_and_place_are_inverses() {
        for loss in losses() {
            for x in [-3.0, -0.5, 0.2, 0.5, 0.9, 4.0] {
                let back = loss.where_ratio_is(loss.log_ratio(x));
                // Where q is tiny the ratio hardly moves at all, and x is lost in its digits.
                let slack = 1e-9 / loss.q.min(1.0) * 1e-5 + 1e-9;
                assert!((back - x).abs() < slack.max(1e-7), "{loss:?} at {x}: {back}");
            }
        }
    }

    /// The hockey stick of a grid is on or above the true one, and equal at the grid's points.
    #[test]
    fn a_grid_is_never_kinder_than_the_truth() {
        for loss in losses() {
            let range = loss.range(1e-15);
            let h = (range.1 - range.0) / 40.0;
            let grid = loss.on_grid(h, range);
            let total: f64 = grid.mass.iter().sum::<f64>() + grid.infinite;
            assert!((total - 1.0).abs() < 1e-12, "{loss:?}: {total}");
            for tenth in 0..400_i32 {
                let epsilon = range.0 + f64::from(tenth) * h / 10.0;
                let mut on_grid = grid.infinite;
                for (p, k) in grid.mass.iter().zip(grid.first..) {
                    on_grid += p * (-libm::expm1(epsilon - signed(k) * h)).max(0.0);
                }
                let exact = hockey_stick(loss, epsilon);
                assert!(on_grid >= exact - 1e-13, "{loss:?} at {epsilon}: {on_grid}, {exact}");
                assert!(on_grid <= exact + h * 0.13, "{loss:?} at {epsilon}: {on_grid}, {exact}");
            }
        }
    }

    /// P(loss > epsilon) - e^epsilon Q(loss > epsilon), from the definition.
    fn hockey_stick(loss: Loss, epsilon: f64) -> f64 {
        let upwards = loss.direction == Direction::Removed;
        let x = loss.where_ratio_is(if upwards { epsilon } else { -epsilon });
        let point = loss.point(x);
        let (plain, shifted) = (point.plain.outside(upwards), point.shifted.outside(upwards));
        let (p, q) = loss.pair(plain, loss.mixture(plain, shifted));
        p - libm::exp(epsilon) * q
    }

    /// Moments by quadrature against those of a fine grid.
    #[test]
    fn moments_agree_with_the_grid() {
        for loss in losses() {
            let range = loss.range(1e-20);
            let h = (range.1 - range.0) / 20_000.0;
            let grid = loss.on_grid(h, range);
            for tilt in [0.1, 1.0, 3.0] {
                let on_grid = log_sum_exp(&grid.log_tilted(h, tilt));
                let exact = loss.log_moment(tilt);
                assert!(
                    (on_grid - exact).abs() < 1e-5 + 1e-4 * exact.abs(),
                    "{loss:?} {tilt}: {on_grid}, {exact}"
                );
            }
        }
    }
}
