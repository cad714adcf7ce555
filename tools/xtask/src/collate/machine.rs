//! The device and the machine around it.

use std::path::Path;

use serde::Deserialize;

use super::{Gaps, Run};
use crate::files::read_text;
use crate::result::{Clocks, Device, MatmulCheck};

/// Required fields of `retromae info --json`.
#[derive(Deserialize)]
pub struct Info {
    devices: Vec<InfoDevice>,
}

#[derive(Deserialize)]
pub struct InfoDevice {
    name: String,
    description: Option<String>,
    /// Reason why it cannot be used.
    pub reason: Option<String>,
    /// Present only if it was requested.
    pub matmul: Option<MatmulCheck>,
}

impl Info {
    /// Returns the entry of the device `cuda` or `host`.
    pub fn device(self, kind: &str) -> Option<InfoDevice> {
        self.devices.into_iter().find(|device| device.name == kind)
    }
}

/// A line of nvidia-smi, its fields in the order of the query; a field that nvidia-smi does not know is none.
struct SmiLine {
    name: Option<String>,
    compute_capability: Option<String>,
    memory_mib: Option<u64>,
    driver: Option<String>,
    clocks: Clocks,
}

pub fn device(dir: &Path, run: &Run, gaps: &mut Gaps) -> Device {
    let info: Option<Info> = gaps.json(dir, "device/info.json");
    let (description, matmul) = info
        .and_then(|info| info.device(&run.device))
        .map_or((None, None), |device| (device.description, device.matmul));
    let mut device = Device {
        kind: run.device.clone(),
        name: description.unwrap_or_default(),
        matmul,
        host_cpu: run.host_cpu.clone(),
        host_threads: run.host_threads,
        ..Device::default()
    };
    if run.device != "cuda" {
        return device;
    }
    let before = smi(dir, "device/smi-before.csv", gaps);
    let after = smi(dir, "device/smi-after.csv", gaps);
    device.clocks_after = after.as_ref().map(|line| line.clocks.clone());
    device.clocks_before = before.as_ref().map(|line| line.clocks.clone());
    if let Some(line) = before.or(after) {
        device.name = line.name.unwrap_or(device.name);
        device.compute_capability = line.compute_capability;
        device.memory_mib = line.memory_mib;
        device.driver = line.driver;
    }
    device
}

fn smi(dir: &Path, name: &str, gaps: &mut Gaps) -> Option<SmiLine> {
    let path = dir.join(name);
    if !path.is_file() {
        gaps.missing.push(name.into());
        return None;
    }
    let parsed = read_text(&path).ok().and_then(|text| parse_smi(text.lines().next()?));
    if parsed.is_none() {
        gaps.warnings.push(format!("{name} was left out: it is no line of nvidia-smi"));
    }
    parsed
}

fn parse_smi(line: &str) -> Option<SmiLine> {
    const FIELDS: usize = 8;
    let cells: Vec<&str> = line.split(',').map(str::trim).collect();
    if cells.len() != FIELDS {
        return None;
    }
    let text = |index: usize| {
        Some(cells[index].to_owned()).filter(|cell| !cell.is_empty() && !cell.starts_with('['))
    };
    let number = |index: usize| cells[index].parse().ok().filter(|value: &f64| value.is_finite());
    Some(SmiLine {
        name: text(0),
        compute_capability: text(1),
        memory_mib: cells[2].parse().ok(),
        driver: text(3),
        clocks: Clocks {
            sm_mhz: number(4),
            memory_mhz: number(5),
            temperature_c: number(6),
            power_w: number(7),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(device: &str) -> Run {
        Run { device: device.into(), ..Run::default() }
    }

    #[test]
    fn the_line_of_nvidia_smi_wins_and_says_what_it_does_not_know() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("device")).unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(dir.path().join("device").join(name), text).unwrap();
        write(
            "info.json",
            r#"{"devices":[{"name":"host","description":"host, 8 threads"},{"name":"cuda","description":"Sample device, 9.0"}]}"#,
        );
        write("smi-before.csv", "Sample device, 9.0, 81559, 580.65.06, 1980, 2619, 31, 70.2\n");
        write("smi-after.csv", "Sample device, 9.0, 81559, 580.65.06, 1755, 2619, 55, [N/A]\n");
        let mut gaps = Gaps::default();
        let found = device(dir.path(), &run("cuda"), &mut gaps);
        assert_eq!((found.name.as_str(), found.memory_mib), ("Sample device", Some(81559)));
        assert_eq!(found.compute_capability.as_deref(), Some("9.0"));
        assert_eq!(found.clocks_before.unwrap().power_w, Some(70.2));
        let after = found.clocks_after.unwrap();
        assert_eq!((after.sm_mhz, after.power_w), (Some(1755.0), None));
        assert!(gaps.missing.is_empty() && gaps.warnings.is_empty());

        write("smi-after.csv", "NVIDIA-SMI has failed\n");
        std::fs::remove_file(dir.path().join("device/smi-before.csv")).unwrap();
        let found = device(dir.path(), &run("cuda"), &mut gaps);
        assert_eq!((found.name.as_str(), found.driver), ("Sample device, 9.0", None));
        assert_eq!(gaps.missing, ["device/smi-before.csv"]);
        assert!(gaps.warnings[0].contains("smi-after.csv"), "{:?}", gaps.warnings);
        assert_eq!(device(dir.path(), &run("host"), &mut gaps).name, "host, 8 threads");
    }
}
