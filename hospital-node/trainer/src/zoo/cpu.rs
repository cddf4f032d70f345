//! Between burn's tensors and the values of those that are on the CPU.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{Device, Tensor, TensorData};

/// The tensor on the CPU, without its gradient's history; nothing when it is elsewhere.
pub(super) fn on_cpu<const D: usize>(x: &Tensor<D>) -> Option<FloatTensor<Flex>> {
    x.clone().inner().try_into_primitive::<Flex>().ok()
}

/// Back from [`primitive`].
pub(super) fn on_tensor<const D: usize>(cpu: FloatTensor<Flex>) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(cpu)
}

/// A tensor that was made on the CPU, without a graph.
pub(super) fn primitive<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Flex> {
    tensor.try_into_primitive::<Flex>().expect("it was made on the CPU, without a graph")
}

/// The values of a contiguous tensor.
pub(super) fn values(cpu: &FloatTensor<Flex>) -> &[f32] {
    cpu.as_slice().expect("its caller made it contiguous, and every tensor here is of f32")
}

/// Values as a tensor on the CPU.
pub(super) fn made<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FloatTensor<Flex> {
    primitive(Tensor::<D>::from_data(TensorData::new(values, shape), &Device::flex()))
}
