//! Settings from the environment: the seed of the order of work, the simulated machine, and the faults to inject.

const MEMORY_BYTES: usize = 8 << 30;
const DRIVER_VERSION: i32 = 13000;
const CAPABILITY: (i32, i32) = (9, 0);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub seed: u64,
    pub log: bool,
    pub faults: Faults,
}

/// Faults of `SIMULATED_CUDA_FAULT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Faults {
    pub no_device: bool,
    pub no_driver: bool,
    pub no_blas: bool,
    pub invalid_image: bool,
    pub capability: (i32, i32),
    pub memory_bytes: usize,
    pub driver_version: i32,
    /// Name of a kernel that fails when it runs.
    pub illegal_address: Option<String>,
    /// Name of a kernel that never finishes.
    pub hang: Option<String>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            no_device: false,
            no_driver: false,
            no_blas: false,
            invalid_image: false,
            capability: CAPABILITY,
            memory_bytes: MEMORY_BYTES,
            driver_version: DRIVER_VERSION,
            illegal_address: None,
            hang: None,
        }
    }
}

impl Settings {
    pub(crate) fn from_env() -> Result<Self, String> {
        let text = |name| std::env::var(name).unwrap_or_default();
        let seed = match text("SIMULATED_CUDA_SEED").as_str() {
            "" => 0,
            seed => seed
                .parse()
                .map_err(|_| format!("SIMULATED_CUDA_SEED is {seed:?}; it should be an unsigned integer"))?,
        };
        let log = match text("SIMULATED_CUDA_LOG").as_str() {
            "" | "0" => false,
            "1" => true,
            other => return Err(format!("SIMULATED_CUDA_LOG is {other:?}; it should be 0 or 1")),
        };
        Ok(Self { seed, log, faults: Faults::parse(&text("SIMULATED_CUDA_FAULT"))? })
    }
}

impl Faults {
    fn parse(text: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for fault in text.split(',').map(str::trim).filter(|fault| !fault.is_empty()) {
            let wrong = || {
                format!(
                    "SIMULATED_CUDA_FAULT has {fault:?}; it should have no-device, no-driver, no-blas, invalid-image, \
                     capability=MAJOR.MINOR, memory=BYTES, driver=VERSION, illegal-address=KERNEL or hang=KERNEL"
                )
            };
            match fault.split_once('=') {
                None => match fault {
                    "no-device" => faults.no_device = true,
                    "no-driver" => faults.no_driver = true,
                    "no-blas" => faults.no_blas = true,
                    "invalid-image" => faults.invalid_image = true,
                    _ => return Err(wrong()),
                },
                Some(("capability", value)) => {
                    let numbers = value
                        .split_once('.')
                        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
                    faults.capability = numbers.ok_or_else(wrong)?;
                }
                Some(("memory", value)) => faults.memory_bytes = value.parse().map_err(|_| wrong())?,
                Some(("driver", value)) => faults.driver_version = value.parse().map_err(|_| wrong())?,
                Some(("illegal-address", kernel)) => faults.illegal_address = Some(kernel.into()),
                Some(("hang", kernel)) => faults.hang = Some(kernel.into()),
                Some(_) => return Err(wrong()),
            }
        }
        Ok(faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_listed_with_commas() {
        let faults = "capability=7.5, memory=1024,no-blas,illegal-address=adamw_f32,driver=12000,hang=instruction_bit_count";
        let faults = Faults::parse(faults).unwrap();
        let expected = Faults {
            capability: (7, 5),
            memory_bytes: 1024,
            no_blas: true,
            illegal_address: Some("adamw_f32".into()),
            hang: Some("instruction_bit_count".into()),
            driver_version: 12000,
            ..Faults::default()
        };
        assert_eq!(faults, expected);
        assert_eq!(Faults::parse("").unwrap(), Faults::default());
    }

    #[test]
    fn unknown_faults_are_named() {
        for text in ["no-gpu", "memory=much", "capability=9", "speed=1"] {
            let message = Faults::parse(text).unwrap_err();
            assert!(message.contains(&format!("{text:?}")), "{message}");
        }
    }
}
