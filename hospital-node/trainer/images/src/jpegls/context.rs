//! Contexts and their adaptive Golomb codes (T.87 annex A). Letters are the standard's.

use super::BROKEN;
use crate::Fault;

/// J: the order of the run-length code at each run index.
pub(super) const RUN_LENGTHS: [u32; 32] = [
    0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13,
    14, 15,
];

/// What holds for a whole scan.
pub(super) struct Terms {
    most: i32,
    pub(super) near: i32,
    /// The step of every difference that two samples can have, from the least on.
    steps: Vec<i8>,
    reset: i32,
    range: i32,
    /// Bits of an error that is written as it is.
    plain: u32,
    limit: u32,
}

impl Terms {
    /// From precision, NEAR and a preset segment, whose zeros stand for defaults (C.2.4.1.1).
    pub(super) fn new(precision: u32, near: i32, preset: Option<[u16; 5]>) -> Option<Self> {
        let [most, t1, t2, t3, reset] = preset.unwrap_or_default().map(i32::from);
        let greatest = (1 << precision) - 1;
        let most = if most == 0 { greatest } else { most };
        if most > greatest || near > 255.min(most / 2) {
            return None;
        }
        let defaults = defaults(most, near);
        let given = |value: i32, default: i32| if value == 0 { default } else { value };
        let thresholds = [given(t1, defaults[0]), given(t2, defaults[1]), given(t3, defaults[2])];
        let steps = (-most..=most).map(|difference| quantised(difference, near, thresholds));
        let range = (most + 2 * near) / (2 * near + 1) + 1;
        let bits = bits_for(most + 1).max(2);
        let plain = bits_for(range);
        Some(Self {
            most,
            near,
            steps: steps.collect(),
            reset: given(reset, 64).max(3),
            range,
            plain,
            limit: 2 * (bits + bits.max(8)),
        })
    }

    fn quantised(&self, difference: i32) -> i32 {
        let place = usize::try_from(difference + self.most).unwrap_or(usize::MAX);
        self.steps.get(place).copied().unwrap_or_default().into()
    }

    /// The context of three differences; 0 is run mode.
    pub(super) fn context(&self, d1: i32, d2: i32, d3: i32) -> i32 {
        (self.quantised(d1) * 9 + self.quantised(d2)) * 9 + self.quantised(d3)
    }

    /// One sample in regular mode, from those to the left, above, and above to the left.
    #[inline]
    pub(super) fn regular(
        &self,
        contexts: &mut [Context],
        place: i32,
        (a, b, c): (i32, i32, i32),
        bits: &mut Bits<'_>,
    ) -> Result<i32, Fault> {
        let sign = if place < 0 { -1 } else { 1 };
        let context = usize::try_from(place.abs())
            .ok()
            .and_then(|place| contexts.get_mut(place))
            .ok_or(BROKEN)?;
        let predicted = if c >= a.max(b) {
            a.min(b)
        } else if c <= a.min(b) {
            a.max(b)
        } else {
            a + b - c
        };
        let predicted = (predicted + sign * context.c).clamp(0, self.most);
        let error = context.error(self, bits)?;
        Ok(self.rebuilt(predicted, sign * error))
    }

    /// A sample from its prediction and error, back in range.
    pub(super) fn rebuilt(&self, predicted: i32, error: i32) -> i32 {
        let step = 2 * self.near + 1;
        let mut value = predicted + error * step;
        if value < -self.near {
            value += self.range * step;
        } else if value > self.most + self.near {
            value -= self.range * step;
        }
        value.clamp(0, self.most)
    }

    #[inline]
    fn golomb(&self, k: u32, limit: u32, bits: &mut Bits<'_>) -> Result<i32, Fault> {
        let most = limit.checked_sub(self.plain + 1).ok_or(BROKEN)?;
        let zeros = bits.zeros(most)?;
        let value =
            if zeros < most { (zeros << k) + bits.take(k)? } else { bits.take(self.plain)? + 1 };
        i32::try_from(value).map_err(|_| BROKEN)
    }
}

/// One of nine steps (A.3.3).
fn quantised(difference: i32, near: i32, [t1, t2, t3]: [i32; 3]) -> i8 {
    let size = difference.abs();
    let step = if size <= near {
        0
    } else if size < t1 {
        1
    } else if size < t2 {
        2
    } else if size < t3 {
        3
    } else {
        4
    };
    if difference < 0 { -step } else { step }
}

fn bits_for(values: i32) -> u32 {
    32 - (values - 1).leading_zeros()
}

fn defaults(most: i32, near: i32) -> [i32; 3] {
    let within = |value: i32, least: i32| {
        if value > most || value < least { least } else { value }
    };
    let mut thresholds = [near + 1; 3];
    let basic = [(3, 2, 3), (7, 3, 5), (21, 4, 7)];
    let mut least = near + 1;
    for (threshold, (basic, base, nears)) in thresholds.iter_mut().zip(basic) {
        let value = if most >= 128 {
            (most.min(4095) + 128) / 256 * (basic - base) + base + nears * near
        } else {
            base.max(basic / (256 / (most + 1)) + nears * near)
        };
        *threshold = within(value, least);
        least = *threshold;
    }
    thresholds
}

/// A regular context: A, B, C, N.
#[derive(Clone)]
pub(super) struct Context {
    a: i32,
    b: i32,
    c: i32,
    n: i32,
}

fn first_a(terms: &Terms) -> i32 {
    ((terms.range + 32) / 64).max(2)
}

/// The smallest k with `n << k >= a`.
fn order(n: i32, a: i32) -> Result<u32, Fault> {
    if n >= a {
        return Ok(0);
    }
    // Both are positive here, and so shifted `n` has as many bits as `a`.
    let k = n.leading_zeros().checked_sub(a.leading_zeros()).ok_or(BROKEN)?;
    let k = if n << k >= a { k } else { k + 1 };
    if k < 24 { Ok(k) } else { Err(BROKEN) }
}

impl Context {
    pub(super) fn new(terms: &Terms) -> Self {
        Self { a: first_a(terms), b: 0, c: 0, n: 1 }
    }

    fn error(&mut self, terms: &Terms, bits: &mut Bits<'_>) -> Result<i32, Fault> {
        let k = order(self.n, self.a)?;
        let mapped = terms.golomb(k, terms.limit, bits)?;
        let error = if mapped % 2 == 0 { mapped / 2 } else { -(mapped + 1) / 2 };
        // The mapping is turned round where errors lean to the negative side (A.5.2).
        let error =
            if terms.near == 0 && k == 0 && 2 * self.b <= -self.n { -error - 1 } else { error };
        if error.abs() > 1 << 17 {
            return Err(BROKEN);
        }
        self.b += error * (2 * terms.near + 1);
        // A context that is hardly ever reset may grow beyond what its errors can be.
        self.a = self.a.saturating_add(error.abs());
        if self.n >= terms.reset {
            self.a >>= 1;
            self.b >>= 1;
            self.n >>= 1;
        }
        self.n += 1;
        if self.b <= -self.n {
            self.b = (self.b + self.n).max(1 - self.n);
            self.c = (self.c - 1).max(-128);
        } else if self.b > 0 {
            self.b = (self.b - self.n).min(0);
            self.c = (self.c + 1).min(127);
        }
        Ok(error)
    }
}

/// A context of samples that interrupt a run: A, N, Nn.
pub(super) struct RunContext {
    a: i32,
    n: i32,
    negative: i32,
}

impl RunContext {
    pub(super) fn new(terms: &Terms) -> Self {
        Self { a: first_a(terms), n: 1, negative: 0 }
    }

    pub(super) fn error(
        &mut self,
        terms: &Terms,
        alike: bool,
        length: u32,
        bits: &mut Bits<'_>,
    ) -> Result<i32, Fault> {
        let kind = i32::from(alike);
        let k = order(self.n, self.a + if alike { self.n >> 1 } else { 0 })?;
        let limit = terms.limit.checked_sub(length + 1).ok_or(BROKEN)?;
        let mapped = terms.golomb(k, limit, bits)?;
        let shifted = mapped + kind;
        let odd = shifted & 1;
        let size = (shifted + odd) / 2;
        let leans = k != 0 || 2 * self.negative >= self.n;
        let error = if leans == (odd == 1) { -size } else { size };
        if size > 1 << 17 {
            return Err(BROKEN);
        }
        if error < 0 {
            self.negative += 1;
        }
        self.a = self.a.saturating_add((mapped + 1 - kind) >> 1);
        if self.n >= terms.reset {
            self.a >>= 1;
            self.n >>= 1;
            self.negative >>= 1;
        }
        self.n += 1;
        Ok(error)
    }
}

/// The bits of a scan: after a byte of ones, the next one's first bit is left out (A.1).
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    held: u64,
    count: u32,
    stuffed: bool,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, held: 0, count: 0, stuffed: false }
    }

    pub(super) fn end(&self) -> usize {
        // A byte of ones that was taken may begin the next marker only if bits were left over.
        let back = usize::try_from(self.count / 8).unwrap_or(0) + usize::from(self.stuffed);
        self.at.saturating_sub(back)
    }

    fn fill(&mut self) {
        while self.count <= 48 {
            let Some(&byte) = self.bytes.get(self.at) else { return };
            if self.stuffed {
                if byte >= 0x80 {
                    return;
                }
                self.held = (self.held << 7) | u64::from(byte);
                self.count += 7;
            } else {
                if byte == 0xff && self.bytes.get(self.at + 1).is_none_or(|next| *next >= 0x80) {
                    return;
                }
                self.held = (self.held << 8) | u64::from(byte);
                self.count += 8;
            }
            self.stuffed = byte == 0xff;
            self.at += 1;
        }
    }

    /// The next bits, at most 24.
    #[inline]
    pub(super) fn take(&mut self, bits: u32) -> Result<u32, Fault> {
        if self.count < bits {
            self.fill();
            if self.count < bits {
                return Err(Fault::Truncated);
            }
        }
        self.count -= bits;
        u32::try_from((self.held >> self.count) & ((1 << bits) - 1)).map_err(|_| BROKEN)
    }

    /// Takes zeros and the one that ends them.
    fn zeros(&mut self, most: u32) -> Result<u32, Fault> {
        let mut zeros = 0;
        loop {
            if self.count == 0 {
                self.fill();
            }
            if self.count == 0 {
                return Err(Fault::Truncated);
            }
            let ahead = (self.held << (64 - self.count)).leading_zeros().min(self.count);
            zeros += ahead;
            self.count -= ahead;
            if zeros > most {
                return Err(BROKEN);
            }
            if self.count > 0 {
                self.count -= 1;
                return Ok(zeros);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_a_code_is_the_least_that_holds_the_mean() {
        for n in [1, 2, 3, 63, 64, 255, 65_535] {
            for a in [0, 1, 2, 3, 4, 7, 8, 9, 1000, 65_535, 65_536, 1 << 22, i32::MAX] {
                let expected = (0..24).find(|k| i64::from(n) << k >= i64::from(a)).ok_or(BROKEN);
                assert_eq!(order(n, a), expected, "{a} in {n}");
            }
        }
    }
}
