//! How far apart two shapes are: Hausdorff distances between their surfaces.

/// Squared distance of what is nowhere; far beyond any within a volume.
const NOWHERE: f64 = 1e15;

/// The Hausdorff distance between the surfaces of two shapes of `[depth, height, width]` voxels,
/// and the 95th percentile of the distances from each surface's voxels to the other surface, the
/// greater of the two ways; in voxels, none when a shape is empty.
///
/// A surface is what has a neighbour along an axis, or the volume's edge, that is not of the shape.
#[must_use]
pub fn distances(a: &[bool], b: &[bool], sides: [usize; 3]) -> Option<(f64, f64)> {
    let (a, b) = (surface(a, sides), surface(b, sides));
    let (there, back) = (from_to(&a, &b, sides)?, from_to(&b, &a, sides)?);
    Some((there.0.max(back.0), there.1.max(back.1)))
}

/// The greatest distance from one surface's voxels to the other, and the 95th percentile.
fn from_to(from: &[bool], to: &[bool], sides: [usize; 3]) -> Option<(f64, f64)> {
    if !to.contains(&true) {
        return None;
    }
    let field = squared(to, sides);
    let mut apart: Vec<f64> =
        field.iter().zip(from).filter(|(_, of)| **of).map(|(d, _)| d.sqrt()).collect();
    apart.sort_unstable_by(f64::total_cmp);
    let most = *apart.last()?;
    // By nearest rank.
    let rank = (apart.len() * 95).div_ceil(100).max(1) - 1;
    Some((most, apart[rank]))
}

fn surface(shape: &[bool], sides: [usize; 3]) -> Vec<bool> {
    let [_, height, width] = sides;
    let steps = [height * width, width, 1];
    let inner = |index: usize| {
        let at = [index / (height * width), index / width % height, index % width];
        (0..3).all(|axis| {
            // A flat image has no neighbours above and below, and no surface there.
            sides[axis] == 1
                || (at[axis] > 0
                    && at[axis] + 1 < sides[axis]
                    && shape[index - steps[axis]]
                    && shape[index + steps[axis]])
        })
    };
    shape.iter().enumerate().map(|(index, inside)| *inside && !inner(index)).collect()
}

/// The squared distance of every voxel to the nearest of a set, one axis after the other
/// (\[FH12\] section 3).
fn squared(set: &[bool], sides: [usize; 3]) -> Vec<f64> {
    let mut field: Vec<f64> = set.iter().map(|of| if *of { 0.0 } else { NOWHERE }).collect();
    let [depth, height, width] = sides;
    for (count, step) in [(width, 1), (height, width), (depth, width * height)] {
        let mut line = vec![0.0; count];
        for start in (0..field.len()).filter(|index| index / step % count == 0) {
            for (place, value) in line.iter_mut().enumerate() {
                *value = field[start + place * step];
            }
            for (place, value) in along(&line).into_iter().enumerate() {
                field[start + place * step] = value;
            }
        }
    }
    field
}

/// For each place of a line, the least of `line[q] + (place - q)^2`: the lower envelope of parabolas
/// (\[FH12\] section 2.1).
#[expect(clippy::cast_precision_loss, reason = "places of a line are far below 2^53")]
fn along(line: &[f64]) -> Vec<f64> {
    let mut roots: Vec<(usize, f64)> = Vec::with_capacity(line.len());
    let height = |q: usize| (q as f64).mul_add(q as f64, line[q]);
    for q in 0..line.len() {
        let mut from = f64::NEG_INFINITY;
        while let Some((p, start)) = roots.last() {
            let meet = (height(q) - height(*p)) / (2.0 * (q - p) as f64);
            if meet > *start {
                from = meet;
                break;
            }
            roots.pop();
        }
        roots.push((q, from));
    }
    let mut of = 0;
    (0..line.len())
        .map(|place| {
            while roots.get(of + 1).is_some_and(|(_, from)| *from < place as f64) {
                of += 1;
            }
            let (q, _) = roots[of];
            (place.abs_diff(q) as f64).mul_add(place.abs_diff(q) as f64, line[q])
        })
        .collect()
}

// [FH12]: Felzenszwalb, Huttenlocher: Distance Transforms of Sampled Functions, Theory of Computing
//   8 (2012).

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Every pair of surface voxels.
    #[expect(clippy::cast_precision_loss, reason = "a small volume")]
    fn by_definition(a: &[bool], b: &[bool], sides: [usize; 3]) -> Option<(f64, f64)> {
        let places = |shape: &[bool]| -> Vec<[f64; 3]> {
            let of = surface(shape, sides);
            let [_, height, width] = sides;
            let at = |i: usize| [i / (height * width), i / width % height, i % width];
            let places = of.iter().enumerate().filter(|(_, on)| **on);
            places.map(|(index, _)| at(index).map(|place| place as f64)).collect()
        };
        let (a, b) = (places(a), places(b));
        let one_way = |from: &[[f64; 3]], to: &[[f64; 3]]| -> Option<(f64, f64)> {
            let nearest = |p: &[f64; 3]| {
                let apart = to.iter().map(|q| (0..3).map(|i| (p[i] - q[i]).powi(2)).sum::<f64>());
                apart.fold(f64::INFINITY, f64::min).sqrt()
            };
            let mut all: Vec<f64> = from.iter().map(nearest).collect();
            all.sort_by(f64::total_cmp);
            let rank = (all.len() * 95).div_ceil(100).max(1) - 1;
            Some((*all.last().filter(|most| most.is_finite())?, all[rank]))
        };
        let (there, back) = (one_way(&a, &b)?, one_way(&b, &a)?);
        Some((there.0.max(back.0), there.1.max(back.1)))
    }

    #[test]
    fn distances_are_those_of_every_pair_of_surface_voxels() {
        let mut random = Random::new("shapes", &[]);
        for sides in [[5, 7, 6], [1, 9, 8], [3, 1, 11], [6, 6, 6]] {
            let voxels: usize = sides.iter().product();
            for share in [0.02, 0.3, 0.9] {
                let shape: Vec<bool> = (0..voxels).map(|_| random.chance(share)).collect();
                let other: Vec<bool> = (0..voxels).map(|_| random.chance(0.4)).collect();
                let found = distances(&shape, &other, sides);
                let expected = by_definition(&shape, &other, sides);
                match (found, expected) {
                    (Some(found), Some(expected)) => {
                        assert!((found.0 - expected.0).abs() < 1e-9, "{found:?} {expected:?}");
                        assert!((found.1 - expected.1).abs() < 1e-9, "{found:?} {expected:?}");
                    }
                    (found, expected) => assert_eq!(found, expected),
                }
            }
        }
        let nothing = vec![false; 8];
        assert_eq!(distances(&nothing, &[true; 8], [2, 2, 2]), None);
        assert_eq!(distances(&[true; 8], &[true; 8], [2, 2, 2]), Some((0.0, 0.0)));
    }
}
