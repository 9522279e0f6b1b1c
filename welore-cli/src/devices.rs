//! The available devices, and the one that a command computes on. The only module that
//! constructs a `Device`.

use std::num::NonZeroUsize;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use burn::tensor::{DType, Device, DeviceType, FloatDType, Tensor};
#[cfg(feature = "_cubecl")]
use burn_dispatch::DispatchDevice;
#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
use burn_dispatch::devices::{CubeDevice, WgpuDeviceKind};
use welore_burn::forms::Precision;
use welore_burn::named::Named;
use welore_burn::train::ExecutionOptions;
use welore_burn::workers::machine_memory;

use crate::failure::{WrongInput, guarded};
use crate::format::number_of;

/// A backend that this program may be compiled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// NVIDIA GPUs.
    Cuda,
    /// Apple GPUs.
    Metal,
    /// GPUs through Vulkan, with SPIR-V shaders.
    Vulkan,
    /// GPUs through wgpu, with WGSL shaders.
    Wgpu,
    /// The CPU.
    Flex,
    /// The CPU, with CubeCL's kernels.
    Cpu,
}

impl Named for Backend {
    fn all() -> &'static [Self] {
        &[Self::Cuda, Self::Metal, Self::Vulkan, Self::Wgpu, Self::Flex, Self::Cpu]
    }

    /// The value of `--backend`, and the name of the Cargo feature.
    fn name(&self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
            Self::Wgpu => "wgpu",
            Self::Flex => "flex",
            Self::Cpu => "cpu",
        }
    }

    fn about(&self) -> &'static str {
        match self {
            Self::Cuda => "NVIDIA GPUs",
            Self::Metal => "Apple GPUs",
            Self::Vulkan => "GPUs through Vulkan, with SPIR-V shaders",
            Self::Wgpu => "GPUs through wgpu, with WGSL shaders",
            Self::Flex => "the CPU",
            Self::Cpu => "the CPU, with CubeCL's kernels",
        }
    }
}

impl Backend {
    /// Burn's type of its devices; `None` if it is not compiled in.
    fn device_type(self) -> Option<DeviceType> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => Some(DeviceType::Cuda),
            #[cfg(feature = "metal")]
            Self::Metal => Some(DeviceType::Metal),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => Some(DeviceType::Vulkan),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Some(DeviceType::Wgpu),
            #[cfg(feature = "flex")]
            Self::Flex => Some(DeviceType::Flex),
            #[cfg(feature = "cpu")]
            Self::Cpu => Some(DeviceType::Cpu),
            #[allow(unreachable_patterns)]
            _ => None,
        }
    }

    /// Whether it is compiled in.
    pub fn is_compiled(self) -> bool {
        self.device_type().is_some()
    }

    /// Its devices on this machine; empty if it is not compiled in or has no driver.
    pub fn devices(self) -> Vec<Device> {
        let Some(device_type) = self.device_type() else { return Vec::new() };
        guarded(|| Device::enumerate(device_type).into_vec()).unwrap_or_default()
    }

    fn is_gpu(self) -> bool {
        !matches!(self, Self::Flex | Self::Cpu)
    }

    /// What to do if it finds no device.
    fn remedy(self) -> &'static str {
        match self {
            Self::Cuda => {
                "install the NVIDIA driver, which includes libcuda, or use another --backend; \
                 `welore-cli devices` lists them"
            }
            Self::Metal => "this backend needs macOS; `welore-cli devices` lists the others",
            _ => {
                "install the GPU's Vulkan driver (Debian: mesa-vulkan-drivers), or use another \
                 --backend; `welore-cli devices` lists them"
            }
        }
    }
}

/// What a device reports about itself.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// Its memory in bytes, if it reports it.
    pub memory: Option<u64>,
    /// The types that it can compute in.
    pub dtypes: Vec<Precision>,
}

impl Facts {
    /// Queries a device; `None` if it cannot be opened.
    pub fn of(device: &Device) -> Option<Self> {
        guarded(|| {
            let dtypes = Precision::all().iter().copied();
            let dtypes = dtypes.filter(|dtype| device.supports_dtype(dtype.float())).collect();
            let (name, memory) = identity(device);
            Self { name, memory, dtypes }
        })
        .ok()
    }
}

/// The name and the memory of a device; opens it.
fn identity(device: &Device) -> (String, Option<u64>) {
    #[cfg(feature = "_cubecl")]
    if let DispatchDevice::Cube(cube) = device.as_dispatch() {
        let client = cube.client();
        let properties = client.properties();
        return (properties.identity.name.clone(), properties.memory.max_memory());
    }
    let _ = device;
    (format!("CPU, {}", number_of(cores().get(), "core")), machine_memory())
}

/// Whether the CPU emulates this GPU. Does not open the device.
pub fn is_software(device: &Device) -> bool {
    #[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
    if let DispatchDevice::Cube(CubeDevice::Wgpu(device)) = device.as_dispatch() {
        return device.kind == WgpuDeviceKind::Cpu;
    }
    let _ = device;
    false
}

/// Where drivers look for a desktop session.
const SESSION: &str = "XDG_RUNTIME_DIR";

/// Whether [`settle_environment`] has set [`SESSION`].
static SILENCED: AtomicBool = AtomicBool::new(false);

/// Settles what libraries read from the environment. `main` must call it first: once there are
/// threads, the environment cannot be changed safely.
///
/// Without a desktop session, drivers that wgpu loads complain on stderr, and nothing but a session
/// keeps them quiet. They look for a socket in it. The one here is no directory, so nobody can put
/// a socket there. Burn's default device must be one that exists, whatever a variable says; nothing
/// is computed on it.
pub fn settle_environment() {
    let silence = cfg!(all(unix, feature = "_cubecl")) && std::env::var_os(SESSION).is_none();
    SILENCED.store(silence, Ordering::Relaxed);
    // SAFETY: there are no threads yet.
    unsafe {
        std::env::remove_var("BURN_DEVICE");
        if silence {
            std::env::set_var(SESSION, "/dev/null");
        }
    }
}

/// Keeps from a child what [`settle_environment`] has set.
pub fn restore_environment(child: &mut Command) {
    if SILENCED.load(Ordering::Relaxed) {
        child.env_remove(SESSION);
    }
}

/// The device for models that are not run, such as those without their weights.
pub fn host() -> Device {
    #[cfg(feature = "flex")]
    return Device::flex();
    #[cfg(not(feature = "flex"))]
    Device::default()
}

/// The number of cores that this process may use.
fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Where the user wants to compute, and in which type.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// The backend; `None` for the best one available.
    pub backend: Option<Backend>,
    /// Number of the device; `None` for the first.
    pub device: Option<usize>,
    /// The type to compute in.
    pub dtype: Precision,
}

/// The device that a command computes on, and the type.
#[derive(Debug, Clone)]
pub struct Compute {
    /// The device.
    pub device: Device,
    /// The type.
    pub dtype: FloatDType,
    backend: Backend,
}

impl Compute {
    /// Opens the chosen device and tries it out.
    pub fn choose(choice: Choice) -> Result<Self> {
        let (backend, devices) = match choice.backend {
            Some(backend) => (backend, found(backend)?),
            None => best()?,
        };
        let device = pick(backend, devices, choice.device)?;
        let compute = Self { device, dtype: FloatDType::F32, backend };
        compute.try_out()?;
        tracing::debug!("computing on {}, device {}", backend.name(), choice.device.unwrap_or(0));
        compute.with_dtype(choice.dtype)
    }

    /// The same device with another type, if it can compute in it.
    fn with_dtype(self, dtype: Precision) -> Result<Self> {
        let Some(facts) = Facts::of(&self.device) else {
            return Err(self.broken("the device can no longer be opened"));
        };
        if !facts.dtypes.contains(&dtype) {
            let message =
                format!("--dtype {}: {} cannot compute in this type", dtype.name(), facts.name);
            let names: Vec<_> = facts.dtypes.iter().map(|dtype| dtype.name()).collect();
            let hint = Some(format!("this device can compute in {}", names.join(", ")));
            return Err(WrongInput { message, hint }.into());
        }
        Ok(Self { dtype: dtype.float(), ..self })
    }

    /// How many windows or examples an evaluation computes at once. On a CPU this is enough to hide
    /// operations that use only one core, and few enough to fit in memory; one keeps a GPU busy.
    pub fn at_once(&self) -> NonZeroUsize {
        const MOST: NonZeroUsize = NonZeroUsize::new(4).unwrap();
        if self.backend == Backend::Flex { cores().min(MOST) } else { NonZeroUsize::MIN }
    }

    /// The name of the backend.
    pub fn backend_name(&self) -> &'static str {
        self.backend.name()
    }

    /// The name that the device reports; empty if it cannot be opened again.
    pub fn device_name(&self) -> String {
        Facts::of(&self.device).map(|facts| facts.name).unwrap_or_default()
    }

    /// The name of the type.
    pub fn dtype_name(&self) -> &'static str {
        let named = Precision::all().iter().find(|precision| precision.float() == self.dtype);
        named.map_or("", |precision| precision.name())
    }

    /// Whether it multiplies by matrices in llama.cpp's blocks as they are, without unpacking all of
    /// them first.
    pub fn multiplies_blocks(&self) -> bool {
        self.backend == Backend::Flex
    }

    /// Whether the device uses the memory of this machine.
    pub fn is_host(&self) -> bool {
        !self.backend.is_gpu()
    }

    /// How batches are split up for the device.
    pub fn execution(&self) -> ExecutionOptions {
        if self.backend == Backend::Flex {
            ExecutionOptions {
                workers: self.at_once(),
                tokens_at_once: 512,
                ..ExecutionOptions::default()
            }
        } else {
            ExecutionOptions {
                workers: NonZeroUsize::MIN,
                tokens_at_once: 1 << 20,
                ahead: 1,
                logits_at_once: 1 << 25,
            }
        }
    }

    /// Computes something: a driver may be installed and not work.
    fn try_out(&self) -> Result<()> {
        let sum = guarded(|| {
            let x = Tensor::<1>::from_data([0.0, 0.0], (&self.device, DType::F32));
            x.exp().sum().into_scalar::<f64>()
        });
        match sum {
            Ok(sum) if (sum - 2.0).abs() < 1e-3 => Ok(()),
            Ok(sum) => Err(self.broken(&format!("it computes {sum} instead of 2"))),
            Err(panic) => Err(self.broken(&panic.message)),
        }
    }

    fn broken(&self, reason: &str) -> anyhow::Error {
        let message = format!("the {} backend does not work here: {reason}", self.backend.name());
        let hint = match self.backend {
            Backend::Cuda => {
                "CUDA needs libcuda, and $CUDA_PATH/nvvm/libdevice from the CUDA toolkit; or use \
                 another --backend"
            }
            _ => "`welore-cli devices` lists the available ones; --backend flex works everywhere",
        };
        WrongInput { message, hint: Some(hint.into()) }.into()
    }
}

/// The devices of a backend that the user chose.
fn found(backend: Backend) -> Result<Vec<Device>> {
    let name = backend.name();
    if !backend.is_compiled() {
        let message = format!("this welore-cli was built without the {name} backend");
        let hint =
            Some(format!("run `cargo install --locked --path welore-cli --features {name}`"));
        return Err(WrongInput { message, hint }.into());
    }
    let devices = backend.devices();
    if devices.is_empty() {
        let message = format!("the {name} backend finds no device");
        return Err(WrongInput { message, hint: Some(backend.remedy().into()) }.into());
    }
    Ok(devices)
}

/// The best backend that is compiled in and finds a device: a GPU if there is one. A GPU that the
/// CPU emulates is used only if it is chosen.
fn best() -> Result<(Backend, Vec<Device>)> {
    for backend in Backend::all().iter().copied() {
        let mut devices = backend.devices();
        if backend.is_gpu() {
            devices.retain(|device| !is_software(device));
        }
        if !devices.is_empty() {
            return Ok((backend, devices));
        }
    }
    let message = "no device was found to compute on".into();
    let hint = Some("build with --features flex, which works everywhere".into());
    Err(WrongInput { message, hint }.into())
}

fn pick(backend: Backend, mut devices: Vec<Device>, index: Option<usize>) -> Result<Device> {
    let (index, count) = (index.unwrap_or(0), devices.len());
    if index < count {
        return Ok(devices.swap_remove(index));
    }
    let has = number_of(count, "device");
    let message = format!("--device {index}: the {} backend has {has}", backend.name());
    let hint = Some("devices are numbered from 0; `welore-cli devices` lists them".into());
    Err(WrongInput { message, hint }.into())
}
