//! CUDA without LLVM.
//!
//! `cubecl-cuda` has two ways from a kernel to the driver: CUDA C++ that NVIDIA's own compiler
//! (NVRTC) takes at run time, and LLVM. It always builds both. For LLVM its package `cubecl-llvm`
//! fetches a prebuilt one from the network in a build script, by a checksum that comes from the same
//! place: a few hundred megabytes of machine code beside patients' images that nobody could rebuild,
//! and no build at all where that place cannot be reached. The trainer asks for CUDA C++
//! (`cubecl-cuda/cpp`), so this package takes the place of the other: it has what `cubecl-cuda` names,
//! in its names, and no compiler. Everything then comes from the registry, by the digests of
//! `Cargo.lock`.

use std::convert::Infallible;
use std::ffi::c_char;
use std::fmt;

use cubecl_core::ir::amd::GfxArch;
use cubecl_core::ir::attributes::BufferIOAttr;
use cubecl_core::ir::nvidia::SmArch;
use cubecl_environment::backtrace::BackTrace;
use cubecl_runtime::compiler::{CompilationError, Compiler};
use cubecl_runtime::kernel::KernelDefinition;
use nvptx::ptx_version::PtxVersion;

/// What NVIDIA's devices read.
pub mod nvptx {
    /// Its versions.
    pub mod ptx_version {
        use std::convert::Infallible;
        use std::fmt;

        /// A version of PTX that LLVM would write: none.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct PtxVersion(Infallible);

        impl PtxVersion {
            /// No version, whatever the driver.
            #[must_use]
            pub const fn for_driver(_driver: i32) -> Option<Self> {
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {}
            }
        }
    }
}

/// What the kinds of devices have in common.
pub mod shared {
    /// What LLVM can do with a device.
    pub mod lowered_features {
        use cubecl_core::ir::DeviceProperties;

        /// A kind of device.
        #[derive(Clone, Copy, Debug)]
        pub enum GpuTarget {
            /// NVIDIA's.
            Nvptx,
        }

        /// Takes off what LLVM cannot do. Nobody is compiled for, so nothing is left to take off.
        pub const fn restrict_features(_: &mut DeviceProperties, _: GpuTarget) {}
    }
}

/// What is compiled for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LlvmTarget {
    /// NVIDIA's devices.
    #[default]
    Nvptx,
}

/// How it is compiled.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// AMD's architecture.
    pub arch: Option<GfxArch>,
    /// NVIDIA's architecture.
    pub sm_arch: Option<SmArch>,
    /// The version of what is written.
    pub ptx_version: Option<PtxVersion>,
    /// Whether scalars come as a parameter of the kernel.
    pub grid_constants: bool,
}

/// A compiled kernel: there is none.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    /// PTX.
    pub ptx: Vec<c_char>,
    /// What it was compiled from.
    pub ir: String,
    /// Bytes of shared memory.
    pub shared_memory_size: usize,
    /// What it does with each buffer.
    pub io: Vec<BufferIOAttr>,
    none: Infallible,
}

/// What the compiler gives: nothing.
#[derive(Clone, Debug)]
pub enum PlironArtifact {
    /// For NVIDIA's devices.
    NvptxCode(NvptxModule),
    /// For another.
    Other(Infallible),
}

impl fmt::Display for PlironArtifact {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NvptxCode(module) => match module.none {},
            Self::Other(none) => match *none {},
        }
    }
}

/// A compiler that refuses.
#[derive(Clone, Debug, Default)]
pub struct PlironCompiler {
    /// For what.
    pub target: LlvmTarget,
}

impl Compiler for PlironCompiler {
    type Representation = PlironArtifact;
    type CompilationOptions = PlironOptions;

    fn compile(
        &mut self,
        _: KernelDefinition,
        _: &PlironOptions,
    ) -> Result<PlironArtifact, CompilationError> {
        Err(CompilationError::Generic {
            reason: "expected a kernel for CUDA C++, found one for LLVM, which is not built in"
                .to_owned(),
            backtrace: BackTrace::capture(),
        })
    }

    fn extension(&self) -> &'static str {
        "ll"
    }

    fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}
