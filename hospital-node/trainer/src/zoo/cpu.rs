//! Between burn's tensors and the values of those that are on the CPU.

use std::hint::black_box;
use std::sync::Once;

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

/// The largest block that glibc's allocator may keep when it is freed.
const LARGEST_KEPT: usize = (32 << 20) - (64 << 10);

/// Has the allocator keep what a pass frees for the next one. Left alone, glibc gives blocks of
/// the size of tensors back to the kernel, which then clears them again and again: two fifths of
/// a small network's time. It takes the size of what it sees freed as the limit from there on
/// (mallopt(3), `M_MMAP_THRESHOLD`), so it is shown one large block, whose pages nobody touches.
/// Other allocators see nothing unusual.
pub(super) fn keep_freed_memory() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(black_box(vec![0_u8; LARGEST_KEPT])));
}
