//! Gradients patient by patient without a pass for each patient: ghost norms (\[LTLH22\]
//! section 3.2, convolutions as in \[BMX22\]) with book-keeping (\[BWZK23\] section 2).
//!
//! A layer leaves a [`Tap`] with its input and with a leaf that gets the gradient at its output.
//! A patient's gradient of the layer's weight is the product of the two, and its norm can often be
//! had without the product. The sum of clipped gradients is then one more product, in which each
//! patient's share is scaled. One backward pass, and none of it computes a weight's gradient.

use burn::tensor::{Gradients, Tensor};

use super::convolution::{columns, portion};
use super::layers::Window;

/// What a layer keeps for the gradient of one tensor of the layout, `place`.
#[derive(Debug)]
pub(super) enum Tap {
    /// A vector that every image has its own copy of: a bias, a scale, a shift.
    Copies { place: usize, copies: Tensor<2> },
    /// The weight of a linear layer. `input` is `[images, in]`, `slope` `[images, out]`.
    Linear { place: usize, input: Tensor<2>, slope: Tensor<2> },
    /// The weight of a convolution, whose window has so many pixels along its sides.
    Convolution {
        place: usize,
        input: Tensor<4>,
        kernel: [usize; 2],
        window: Window,
        slope: Tensor<4>,
    },
}

/// One tensor's gradients, patient by patient, as far as they had to be computed.
#[derive(Debug)]
pub(super) struct Share {
    place: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The gradients themselves, `[patients, values]`, some patients after the others.
    Rows(Vec<Tensor<2>>),
    /// The pair whose product they are: `[in, places]` and `[out, places]`, where every patient
    /// has equally many places in a row.
    Pair(Tensor<2>, Tensor<2>),
}

impl Tap {
    /// Reads the tap after the backward pass: the share, and each patient's squared norm of it,
    /// `[patients]`. `None` when the backend gave no gradient.
    ///
    /// `views` images in a row belong to one patient, whose gradient is their sum.
    pub(super) fn read(self, gradients: &Gradients, views: usize) -> Option<(Share, Tensor<1>)> {
        let (place, (kind, squares)) = match self {
            Self::Copies { place, copies } => {
                let [images, values] = copies.dims();
                let own = copies.grad(gradients)?;
                let own = own.reshape([images / views, views, values]).sum_dim(1);
                let (rows, squares) = rows(own);
                (place, (Kind::Rows(vec![rows]), squares))
            }
            Self::Linear { place, input, slope } => {
                let slope = slope.grad(gradients)?.transpose().unsqueeze_dim(2);
                (place, linear(input.transpose().unsqueeze_dim(2), slope, views))
            }
            Self::Convolution { place, input, kernel, window, slope } => {
                let slope = slope.grad(gradients)?;
                (place, convolution(input, kernel, window, slope, views))
            }
        };
        Some((Share { place, kind }, squares))
    }
}

fn linear(input: Tensor<3>, slope: Tensor<3>, views: usize) -> (Kind, Tensor<1>) {
    let [inputs, images, _] = input.dims();
    let outputs = slope.dims()[0];
    // The views are to a patient what places are to a convolution.
    if pays(views, inputs, outputs) {
        let squares = squares(by_patient(&input, views), by_patient(&slope, views));
        let flat = |x: Tensor<3>, values| x.reshape([values, images]);
        (Kind::Pair(flat(input, inputs), flat(slope, outputs)), squares)
    } else {
        let (rows, squares) = product(by_patient(&input, views), by_patient(&slope, views));
        (Kind::Rows(vec![rows]), squares)
    }
}

fn convolution(
    input: Tensor<4>,
    kernel: [usize; 2],
    window: Window,
    slope: Tensor<4>,
    views: usize,
) -> (Kind, Tensor<1>) {
    let [images, channels, _, _] = input.dims();
    let [_, outputs, down, right] = slope.dims();
    let (inputs, area) = (channels * kernel[0] * kernel[1], down * right);
    let slope = slope.reshape([images, outputs, area]).swap_dims(0, 1);
    if pays(views * area, inputs, outputs) {
        let patches = columns(input, kernel, window);
        let squares = squares(by_patient(&patches, views), by_patient(&slope, views));
        let pair = Kind::Pair(
            patches.reshape([inputs, images * area]),
            slope.reshape([outputs, images * area]),
        );
        return (pair, squares);
    }
    // Patches are large where there are many places: some patients at a time.
    let patients = portion(images / views, views * inputs * area);
    let (mut parts, mut norms) = (Vec::new(), Vec::new());
    for first in (0..images).step_by(patients * views) {
        let count = (patients * views).min(images - first);
        let patches = columns(input.clone().narrow(0, first, count), kernel, window);
        let slope = slope.clone().narrow(1, first, count);
        let (rows, squares) = product(by_patient(&patches, views), by_patient(&slope, views));
        parts.push(rows);
        norms.push(squares);
    }
    (Kind::Rows(parts), Tensor::cat(norms, 0))
}

impl Share {
    /// The sum over patients, each times its factor of `[patients]`, with its place in the layout.
    pub(super) fn sum(self, factors: &Tensor<1>) -> (usize, Tensor<1>) {
        let sum = match self.kind {
            Kind::Rows(parts) => {
                let mut first = 0;
                let sums = parts.into_iter().map(|rows| {
                    let patients = rows.dims()[0];
                    let factors = factors.clone().narrow(0, first, patients);
                    first += patients;
                    factors.unsqueeze::<2>().matmul(rows)
                });
                sums.reduce(|sum, part| sum + part)
            }
            Kind::Pair(inputs, slopes) => {
                let (places, patients) = (slopes.dims()[1], factors.dims()[0]);
                let each = factors.clone().reshape([patients, 1]).repeat_dim(1, places / patients);
                let scaled = slopes * each.reshape([1, places]);
                Some(scaled.matmul(inputs.transpose()))
            }
        };
        let none = || Tensor::zeros([0, 0], &factors.device());
        (self.place, sum.unwrap_or_else(none).flatten(0, 1))
    }
}

/// Whether norms without products are less work. A product that is formed has its values written
/// and read again, each worth about as much time as [`TOUCH`] multiplications; without it there
/// are `places^2` products of pairs of places, over the inputs and over the outputs (\[BMX22\]
/// section 4 counts memory instead).
fn pays(places: usize, inputs: usize, outputs: usize) -> bool {
    places * places * (inputs + outputs) < TOUCH * inputs * outputs
}

/// Measured; see [`pays`].
const TOUCH: usize = 32;

/// Puts the places of all of a patient's images side by side:
/// `[values, images, places]` to `[patients, values, views * places]`.
fn by_patient(x: &Tensor<3>, views: usize) -> Tensor<3> {
    let [values, images, places] = x.dims();
    let x = x.clone();
    // Without this a view that is turned round already would be copied.
    let x = if views == 1 { x } else { x.reshape([values, images / views, views * places]) };
    x.swap_dims(0, 1)
}

/// Of `a`, `[patients, in, places]`, and `g`, `[patients, out, places]`: each patient's product
/// `g a^T` as a row, and the squares of their norms.
fn product(a: Tensor<3>, g: Tensor<3>) -> (Tensor<2>, Tensor<1>) {
    rows(g.matmul(a.swap_dims(1, 2)))
}

/// Gradients `[patients, ..]` as rows, and the squares of their norms.
fn rows(own: Tensor<3>) -> (Tensor<2>, Tensor<1>) {
    let [patients, a, b] = own.dims();
    let rows = own.reshape([patients, a * b]);
    let squares = rows.clone().square().sum_dim(1).reshape([patients]);
    (rows, squares)
}

/// The squares of the norms of the products that [`product`] forms, without forming them:
/// `|g a^T|^2 = <a^T a, g^T g>`.
fn squares(a: Tensor<3>, g: Tensor<3>) -> Tensor<1> {
    let within = |x: Tensor<3>| x.clone().swap_dims(1, 2).matmul(x);
    let products = within(a) * within(g);
    let [patients, places, _] = products.dims();
    products.reshape([patients, places * places]).sum_dim(1).reshape([patients])
}

// [LTLH22]: Li, Tramèr, Liang, Hashimoto: Large Language Models Can Be Strong Differentially
//   Private Learners, ICLR 2022, arXiv 2110.05679.
// [BMX22]: Bu, Mao, Xu: Scalable and Efficient Training of Large Convolutional Neural Networks with
//   Differential Privacy, NeurIPS 2022, arXiv 2205.10683.
// [BWZK23]: Bu, Wang, Zha, Karypis: Differentially Private Optimization on Large Model at Small
//   Cost, ICML 2023, arXiv 2210.00038.
