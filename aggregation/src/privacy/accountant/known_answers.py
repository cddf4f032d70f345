#!/usr/bin/env python3
"""Writes answers.rs: what the accountants must say, computed another way and with more digits.

- Renyi divergences and their epsilons: the sum over k as it is published, with 300 bits.
- Epsilons of privacy loss distributions, exact: the Gaussian without subsampling by its closed
  form (Balle and Wang 2018, theorem 8); one subsampled step by its closed form; two steps by
  integrating one step's closed form over the other's distribution. Removing and adding a patient
  are both computed, the greater epsilon is the answer. 40 digits; two steps in doubles.

Needs mpmath, numpy and scipy. Usage: known_answers.py > answers.rs && rustfmt answers.rs
"""

import numpy as np
from mpmath import binomial, erfc, exp, expm1, inf, log, log1p, mp, mpf, sqrt
from scipy import optimize, special

mp.prec = 300


def rdp(sigma, q, order):
    if q == 1:
        return mpf(order) / (2 * mpf(sigma) ** 2)
    total = sum(
        binomial(order, k) * (1 - mpf(q)) ** (order - k) * mpf(q) ** k * exp(mpf(k * (k - 1)) / (2 * mpf(sigma) ** 2))
        for k in range(order + 1)
    )
    return log(total) / (order - 1)


def rdp_epsilon(events, delta):
    def at(order):
        spent = sum(steps * rdp(sigma, q, order) for sigma, q, steps in events)
        return spent + log(1 - mpf(1) / order) - log(mpf(delta) * order) / (order - 1)

    return max(mpf(0), min(at(order) for order in range(2, 257)))


def above(x, mean, sigma):
    return erfc((x - mean) / (sigma * sqrt(mpf(2)))) / 2


class Step:
    """One subsampled step: mixture (1-q) N(0, s^2) + q N(1, s^2) against N(0, s^2)."""

    def __init__(self, sigma, q):
        self.sigma, self.q = mpf(sigma), mpf(q)

    def loss(self, x):
        return log1p(self.q * expm1((2 * x - 1) / (2 * self.sigma**2)))

    def where(self, y):
        ratio = 1 + expm1(y) / self.q
        return -inf if ratio <= 0 else self.sigma**2 * log(ratio) + mpf(1) / 2

    def removed(self, y):
        """Hockey stick with the mixture on top, at any real y."""
        x = self.where(y)
        if x == -inf:
            return 1 - exp(y)
        base = above(x, 0, self.sigma)
        return (1 - self.q) * base + self.q * above(x, 1, self.sigma) - exp(y) * base

    def added(self, y):
        """Hockey stick with the plain Gaussian on top."""
        x = self.where(-y)
        if x == -inf:
            return mpf(0)
        base = 1 - above(x, 0, self.sigma)
        return base - exp(y) * ((1 - self.q) * base + self.q * (1 - above(x, 1, self.sigma)))


def bisect(curve, delta):
    if curve(mpf(0)) <= delta:
        return mpf(0)
    low, high = mpf(0), mpf(1)
    while curve(high) > delta:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if curve(middle) > delta else (low, middle)
    return high


def pld_epsilon(events, delta):
    delta = mpf(delta)
    if all(q == 1 for _, q, _ in events):
        mu = sqrt(sum(steps / mpf(sigma) ** 2 for sigma, _, steps in events))
        return bisect(
            lambda e: above(e / mu - mu / 2, 0, 1) - exp(e) * above(e / mu + mu / 2, 0, 1), delta
        )
    steps = [Step(sigma, q) for sigma, q, count in events for _ in range(count)]
    if len(steps) == 1:
        return max(bisect(steps[0].removed, delta), bisect(steps[0].added, delta))
    one, two = events if len(events) == 2 else events * 2
    return max(two_steps(one, two, delta, True), two_steps(one, two, delta, False))


def two_steps(one, two, delta, removed):
    """Trapezoid rule with 2 million points, in doubles: the rule is good to the last digits, and
    delta to one part in 10^10."""
    (s1, q1, _), (s2, q2, _) = one, two
    x = np.linspace(-14 * s2, 1 + 14 * s2, 2_000_001)
    plain = np.exp(-(x**2) / (2 * s2**2)) / (s2 * np.sqrt(2 * np.pi))
    shifted = np.exp(-((x - 1) ** 2) / (2 * s2**2)) / (s2 * np.sqrt(2 * np.pi))
    weight = (1 - q2) * plain + q2 * shifted if removed else plain
    loss = np.log1p(q2 * np.expm1((2 * x - 1) / (2 * s2**2)))

    def curve(e):
        y = e - loss if removed else e + loss
        ratio = 1 + np.expm1(y if removed else -y) / q1
        at = np.where(ratio > 0, s1**2 * np.log(np.maximum(ratio, 1e-300)) + 0.5, -np.inf)
        if removed:
            base = special.ndtr(-at / s1)
            stick = (1 - q1) * base + q1 * special.ndtr(-(at - 1) / s1) - np.exp(y) * base
        else:
            base = special.ndtr(at / s1)
            stick = base - np.exp(y) * ((1 - q1) * base + q1 * special.ndtr((at - 1) / s1))
        return np.trapezoid(weight * np.nan_to_num(stick), x)

    return optimize.brentq(lambda e: curve(e) - float(delta), 0, 50, xtol=1e-13)


def rust(value):
    return repr(float(value))


print("//! Known answers of the accountants, written by `known_answers.py`. Do not edit.\n")
print("/// Noise, rate, steps.\npub(super) type Event = (f64, f64, u64);\n")
print("/// Noise, rate, order, the divergence of one step.")
print("pub(super) const RDP: &[(f64, f64, u16, f64)] = &[")
for sigma, q in [(0.7, 0.01), (1.0, 0.25), (1.3, 0.003), (5.0, 0.05), (40.0, 0.9), (2.0, 1.0)]:
    for order in (2, 3, 5, 13, 64, 255, 256):
        print(f"({sigma!r}, {q!r}, {order}, {rust(rdp(sigma, q, order))}),")
print("];\n\n/// Events, delta, epsilon.")
print("pub(super) const RDP_EPSILON: &[(&[Event], f64, f64)] = &[")
for events, delta in [
    ([(1.2, 0.25, 100)], 1e-5),
    ([(0.9, 0.002, 40000)], 1e-7),
    ([(6.0, 0.5, 300)], 1e-6),
    ([(1.1, 0.01, 500), (3.0, 0.2, 200), (20.0, 1.0, 7)], 1e-5),
]:
    print(f"(&{[tuple(e) for e in events]}, {delta!r}, {rust(rdp_epsilon(events, delta))}),")
print("];\n\n/// Events, delta, epsilon.")
print("pub(super) const PLD_EPSILON: &[(&[Event], f64, f64)] = &[")
mp.dps = 40
for events, delta in [
    ([(1.0, 1.0, 1)], 1e-6),
    ([(0.5, 1.0, 1)], 0.1),
    ([(30.0, 1.0, 1000)], 1e-12),
    ([(2.0, 1.0, 3), (5.0, 1.0, 10)], 1e-9),
    ([(0.2, 1.0, 36)], 1e-6),
    ([(800.0, 1.0, 1_000_000)], 1e-6),
    ([(1.0, 0.01, 1)], 1e-5),
    ([(0.6, 0.3, 1)], 1e-7),
    ([(3.0, 0.001, 1)], 1e-5),
    ([(0.5, 0.001, 1)], 1e-6),
    ([(0.8, 0.1, 2)], 1e-6),
    ([(0.7, 0.02, 1), (1.5, 0.6, 1)], 1e-5),
]:
    print(f"(&{[tuple(e) for e in events]}, {delta!r}, {rust(pld_epsilon(events, delta))}),")
print("];")
