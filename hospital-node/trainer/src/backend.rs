//! From the name of a device in a configuration to the device that burn computes on.
//!
//! The CPU is always there. Others are compiled in by the features `wgpu` (whatever has Vulkan) and
//! `cuda` (NVIDIA's), and looked for when they are asked for: their libraries are loaded then, so the
//! same program starts on a machine that has neither.

use std::fmt;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::Device;

/// Longest part of a name that an error repeats.
const SHOWN: usize = 32;

/// The device cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoDevice {
    /// Not a name of a device.
    #[error("device: expected \"auto\", \"cpu\", \"wgpu\" or \"cuda:N\", found {0:?}")]
    Unknown(String),
    /// Another build has it.
    #[error("device {name}: expected a build with the feature {feature:?}, found one without")]
    NotBuilt {
        /// As asked for.
        name: Wanted,
        /// What the build lacks.
        feature: &'static str,
    },
    /// The machine does not have it.
    #[error("device {0}: expected one that this machine has, found none of that name")]
    Absent(Wanted),
    /// It is there and does not compute: its driver is broken, or lacks what it needs.
    #[error("device {name}: expected one that computes, found one that fails; {hint}")]
    Broken {
        /// As asked for.
        name: Wanted,
        /// What may be missing.
        hint: &'static str,
    },
}

/// A device by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The best that is there: CUDA, a GPU by Vulkan, the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The best device by Vulkan; a software one if there is no other.
    Wgpu,
    /// NVIDIA's of that number.
    Cuda(usize),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("\"auto\""),
            Self::Cpu => f.write_str("\"cpu\""),
            Self::Wgpu => f.write_str("\"wgpu\""),
            Self::Cuda(number) => write!(f, "\"cuda:{number}\""),
        }
    }
}

impl Wanted {
    /// The device of that name.
    ///
    /// # Errors
    /// [`NoDevice::Unknown`] for any other word.
    pub fn parse(name: &str) -> Result<Self, NoDevice> {
        match (name, name.strip_prefix("cuda:").map(str::parse::<u8>)) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("wgpu", _) => Ok(Self::Wgpu),
            (_, Some(Ok(number))) => Ok(Self::Cuda(number.into())),
            (_, Some(Err(_)) | None) => Err(NoDevice::Unknown(name.chars().take(SHOWN).collect())),
        }
    }
}

/// The device of that name. One beside the CPU has computed something when it is given.
///
/// # Errors
/// [`NoDevice`] for a name that is not known, or what is not compiled in, not there or broken. `auto`
/// always finds one.
pub fn device(name: &str) -> Result<Device, NoDevice> {
    let wanted = Wanted::parse(name)?;
    match wanted {
        Wanted::Cpu => Ok(Device::flex()),
        Wanted::Cuda(number) => cuda(number).map_err(|lack| lack.of(wanted)),
        Wanted::Wgpu => wgpu(true).map_err(|lack| lack.of(wanted)),
        Wanted::Auto => {
            let found = or_next(Wanted::Cuda(0), cuda(0));
            let found = found.or_else(|| or_next(Wanted::Wgpu, wgpu(false)));
            let (name, device) = found.unwrap_or_else(|| (Wanted::Cpu, Device::flex()));
            tracing::info!(device = %name, "a device was chosen");
            Ok(device)
        }
    }
}

/// A device, unless it cannot be had; that it is there and broken is worth a line.
fn or_next(name: Wanted, found: Result<Device, Lack>) -> Option<(Wanted, Device)> {
    match found {
        Ok(device) => Some((name, device)),
        Err(lack @ Lack::Broken) => {
            tracing::warn!(reason = %lack.of(name), "a device is passed over");
            None
        }
        Err(Lack::NotBuilt | Lack::Absent) => None,
    }
}

/// Whether tensors live in the machine's own memory, and are computed with by its processor.
#[must_use]
pub fn is_cpu(device: &Device) -> bool {
    *device == Device::flex()
}

/// Why a kind of device cannot be had.
#[derive(Debug, Clone, Copy)]
enum Lack {
    #[cfg_attr(
        all(feature = "wgpu", feature = "cuda"),
        expect(dead_code, reason = "this build has every kind")
    )]
    NotBuilt,
    #[cfg_attr(
        not(any(feature = "wgpu", feature = "cuda")),
        expect(dead_code, reason = "this build looks for none")
    )]
    Absent,
    #[cfg_attr(
        not(any(feature = "wgpu", feature = "cuda")),
        expect(dead_code, reason = "this build tries none")
    )]
    Broken,
}

impl Lack {
    const fn of(self, name: Wanted) -> NoDevice {
        let (feature, hint) = match name {
            Wanted::Cuda(_) => (
                "cuda",
                "besides the driver it needs NVRTC and a CUDA toolkit's headers, in /usr/local/cuda",
            ),
            Wanted::Wgpu | Wanted::Auto | Wanted::Cpu => ("wgpu", "its driver may be too old"),
        };
        match self {
            Self::NotBuilt => NoDevice::NotBuilt { name, feature },
            Self::Absent => NoDevice::Absent(name),
            Self::Broken => NoDevice::Broken { name, hint },
        }
    }
}

#[cfg(not(feature = "cuda"))]
const fn cuda(_: usize) -> Result<Device, Lack> {
    Err(Lack::NotBuilt)
}

#[cfg(feature = "cuda")]
fn cuda(number: usize) -> Result<Device, Lack> {
    // The kernel module's device, in a virtual machine of Windows' the hypervisor's: without either
    // there is no driver, and loading its library would only complain.
    if !["/dev/nvidiactl", "/dev/dxg"].iter().any(|path| std::path::Path::new(path).exists()) {
        return Err(Lack::Absent);
    }
    let device = Device::cuda(number);
    let cards = || Device::enumerate(burn::tensor::DeviceType::Cuda);
    match catch_unwind(AssertUnwindSafe(|| cards().into_iter().any(|one| one == device))) {
        Ok(true) => computes(device),
        Ok(false) => Err(Lack::Absent),
        Err(_) => Err(Lack::Broken),
    }
}

#[cfg(not(feature = "wgpu"))]
const fn wgpu(_: bool) -> Result<Device, Lack> {
    Err(Lack::NotBuilt)
}

/// `software` says that one which is a program on the CPU will do as well.
#[cfg(feature = "wgpu")]
fn wgpu(software: bool) -> Result<Device, Lack> {
    use burn::tensor::DeviceKind;
    let mut kinds =
        vec![DeviceKind::DiscreteGpu(0), DeviceKind::IntegratedGpu(0), DeviceKind::VirtualGpu(0)];
    if software {
        kinds.push(DeviceKind::Cpu);
    }
    let absent = |found: &Result<Device, Lack>| matches!(found, Err(Lack::Absent));
    let mut found = kinds.into_iter().map(vulkan).skip_while(absent);
    found.next().unwrap_or(Err(Lack::Absent))
}

/// The machine's first device of that kind by Vulkan. OpenGL, which wgpu would fall back to, is not
/// for computing.
#[cfg(feature = "wgpu")]
fn vulkan(kind: burn::tensor::DeviceKind) -> Result<Device, Lack> {
    use std::sync::{Mutex, PoisonError};

    use burn::tensor::wgpu::{WgpuBackend, WgpuInitError};

    // Each can be opened once.
    static OPEN: Mutex<Vec<(burn::tensor::DeviceKind, Device)>> = Mutex::new(Vec::new());
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, device)) = open.iter().find(|(known, _)| *known == kind) {
        return Ok(device.clone());
    }
    let options = Device::wgpu_options().graphics_api(WgpuBackend::Vulkan);
    match catch_unwind(AssertUnwindSafe(|| options.device_kind(kind.clone()).init())) {
        Ok(Ok(device)) => {
            let device = computes(device)?;
            open.push((kind, device.clone()));
            Ok(device)
        }
        Ok(Err(WgpuInitError::AdapterUnavailable { .. })) => Err(Lack::Absent),
        Ok(Err(_)) | Err(_) => Err(Lack::Broken),
    }
}

/// The device, if it can add. Libraries that are there but do not fit the driver may panic.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn computes(device: Device) -> Result<Device, Lack> {
    let added = catch_unwind(AssertUnwindSafe(|| {
        burn::tensor::Tensor::<1>::ones([3], &device).sum().try_into_scalar::<f32>()
    }));
    match added {
        Ok(Ok(sum)) if sum.to_bits() == 3.0_f32.to_bits() => Ok(device),
        Ok(_) | Err(_) => Err(Lack::Broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there_and_what_is_not_gets_one_clear_line() {
        assert!(is_cpu(&device("cpu").expect("always there")));
        for name in ["abacus", "cuda", "cuda:", "cuda:x", "cuda:-1", "cpu ", ""] {
            let error = device(name).expect_err("no device");
            assert_eq!(error, NoDevice::Unknown(name.to_owned()));
        }
        // Nobody has so many.
        let error = device("cuda:255").expect_err("not there").to_string();
        assert!(error.contains("\"cuda:255\"") && error.lines().count() == 1, "{error}");
    }

    #[test]
    fn auto_finds_something() {
        let found = device("auto").expect("the CPU if nothing else");
        #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
        assert!(is_cpu(&found));
        let one = burn::tensor::Tensor::<1>::ones([3], &found).sum();
        assert_eq!(one.try_into_vec_as::<f32>().expect("computed"), [3.0]);
    }
}
