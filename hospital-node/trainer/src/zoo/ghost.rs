//! Gradients patient by patient without a pass for each patient: ghost norms (\[LTLH22\]
//! section 3.2, convolutions as in \[BMX22\]) with book-keeping (\[BWZK23\] section 2).
//!
//! A layer leaves a [`Tap`] with its input and with a leaf that gets the gradient at its output.
//! A patient's gradient of the layer's weight is the product of the two, and its norm can often be
//! had without the product. The sum of clipped gradients is then one more product, in which each
//! patient's share is scaled. One backward pass, and none of it computes a weight's gradient.

use burn::tensor::module::conv2d_weight_backward;
use burn::tensor::{Gradients, Tensor};

use super::layers::Window;

/// What a layer keeps for the gradient of one tensor of the layout, `place`.
#[derive(Debug)]
pub(super) enum Tap {
    /// A vector that every image has its own copy of: a bias, a scale, a shift.
    Copies { place: usize, copies: Tensor<2> },
    /// The weight of a linear layer. `input` is `[images, in]`, `slope` `[images, out]`.
    Linear { place: usize, input: Tensor<2>, slope: Tensor<2> },
    /// The weight of a convolution. `slope` has the shape of the output.
    Convolution {
        place: usize,
        input: Tensor<4>,
        weight: Tensor<4>,
        window: Window,
        slope: Tensor<4>,
    },
}

/// One tensor's gradients, patient by patient, as far as they had to be computed.
pub(super) struct Share {
    place: usize,
    kind: Kind,
}

enum Kind {
    /// `[patients, values]`: the gradients themselves.
    Rows(Tensor<2>),
    /// A linear weight's, as the pair whose product they are.
    Linear { input: Tensor<2>, slope: Tensor<2> },
    /// A convolution's.
    Convolution { input: Tensor<4>, weight: Tensor<4>, window: Window, slope: Tensor<4> },
}

impl Tap {
    /// Reads the tap after the backward pass: the share, and each patient's squared norm of it,
    /// `[patients]`. `None` when the backend gave no gradient.
    ///
    /// `views` images in a row belong to one patient, whose gradient is their sum.
    pub(super) fn read(self, gradients: &Gradients, views: usize) -> Option<(Share, Tensor<1>)> {
        let (place, kind, squares) = match self {
            Self::Copies { place, copies } => {
                let [images, values] = copies.dims();
                let own = copies.grad(gradients)?;
                let own = own.reshape([images / views, views, values]).sum_dim(1);
                rows(place, own)
            }
            Self::Linear { place, input, slope } => {
                let slope = slope.grad(gradients)?;
                let [images, inputs] = input.dims();
                let outputs = slope.dims()[1];
                let patients = images / views;
                // The views are to a patient what places are to a convolution.
                let a = input.clone().reshape([patients, views, inputs]).swap_dims(1, 2);
                let g = slope.clone().reshape([patients, views, outputs]).swap_dims(1, 2);
                match product(a, g) {
                    Product::Whole(own) => rows(place, own),
                    Product::Squares(squares) => (place, Kind::Linear { input, slope }, squares),
                }
            }
            Self::Convolution { place, input, weight, window, slope } => {
                let slope = slope.grad(gradients)?;
                let [images, outputs, height, width] = slope.dims();
                let a = columns(input.clone(), weight.dims(), window);
                let a = by_patient(a, views);
                let g = by_patient(slope.clone().reshape([images, outputs, height * width]), views);
                match product(a, g) {
                    Product::Whole(own) => rows(place, own),
                    Product::Squares(squares) => {
                        (place, Kind::Convolution { input, weight, window, slope }, squares)
                    }
                }
            }
        };
        Some((Share { place, kind }, squares))
    }
}

impl Share {
    /// The sum over patients, each times its factor of `[patients]`, with its place in the layout.
    pub(super) fn sum(self, factors: &Tensor<1>, views: usize) -> (usize, Tensor<1>) {
        let patients = factors.dims()[0];
        let of_images = || {
            let each = factors.clone().reshape([patients, 1]).repeat_dim(1, views);
            each.reshape([patients * views, 1])
        };
        let sum = match self.kind {
            Kind::Rows(own) => factors.clone().reshape([1, patients]).matmul(own).flatten(0, 1),
            Kind::Linear { input, slope } => {
                (slope * of_images()).transpose().matmul(input).flatten(0, 1)
            }
            Kind::Convolution { input, weight, window, slope } => {
                let scaled = slope * of_images().reshape([patients * views, 1, 1, 1]);
                conv2d_weight_backward(input, weight, scaled, window.options()).flatten(0, 3)
            }
        };
        (self.place, sum)
    }
}

/// Gradients that are known in full, `[patients, ..]`, and the squares of their norms.
fn rows(place: usize, own: Tensor<3>) -> (usize, Kind, Tensor<1>) {
    let [patients, a, b] = own.dims();
    let own = own.reshape([patients, a * b]);
    let squares = own.clone().square().sum_dim(1).reshape([patients]);
    (place, Kind::Rows(own), squares)
}

enum Product {
    /// `[patients, out, in]`.
    Whole(Tensor<3>),
    /// `[patients]`: the squared norm of each patient's product, which was not formed.
    Squares(Tensor<1>),
}

/// Of `a`, `[patients, in, places]`, and `g`, `[patients, out, places]`: the product `g a^T`, or
/// only the squares of its norms when that is less work (\[BMX22\] equation 4.1):
/// `|g a^T|^2 = <a^T a, g^T g>`.
fn product(a: Tensor<3>, g: Tensor<3>) -> Product {
    let [patients, inputs, places] = a.dims();
    let outputs = g.dims()[1];
    if 2 * places * places >= inputs * outputs {
        return Product::Whole(g.matmul(a.swap_dims(1, 2)));
    }
    let within = |x: Tensor<3>| x.clone().swap_dims(1, 2).matmul(x);
    let products = within(a) * within(g);
    Product::Squares(products.reshape([patients, places * places]).sum_dim(1).reshape([patients]))
}

/// The patches of the input that the window sees, `[images, in * kernel, places]`.
fn columns(x: Tensor<4>, kernel: [usize; 4], window: Window) -> Tensor<3> {
    let [_, _, high, wide] = kernel;
    let Window { stride, padding } = window;
    let x = x.pad((padding, padding, padding, padding), 0.0);
    let x: Tensor<6> = x.unfold::<5, _>(2, high, stride).unfold::<6, _>(3, wide, stride);
    let [images, channels, rows, columns, _, _] = x.dims();
    x.permute([0, 1, 4, 5, 2, 3]).reshape([images, channels * high * wide, rows * columns])
}

/// Puts the places of all of a patient's images side by side:
/// `[images, n, places]` to `[patients, n, views * places]`.
fn by_patient(x: Tensor<3>, views: usize) -> Tensor<3> {
    let [images, values, places] = x.dims();
    if views == 1 {
        return x;
    }
    let x = x.reshape([images / views, views, values, places]).swap_dims(1, 2);
    x.reshape([images / views, values, views * places])
}

// [LTLH22]: Li, Tramèr, Liang, Hashimoto: Large Language Models Can Be Strong Differentially
//   Private Learners, ICLR 2022, arXiv 2110.05679.
// [BMX22]: Bu, Mao, Xu: Scalable and Efficient Training of Large Convolutional Neural Networks with
//   Differential Privacy, NeurIPS 2022, arXiv 2205.10683.
// [BWZK23]: Bu, Wang, Zha, Karypis: Differentially Private Optimization on Large Model at Small
//   Cost, ICML 2023, arXiv 2210.00038.
