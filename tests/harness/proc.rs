//! What the system knows of a process: CPU time, memory, children. From `/proc`, so Linux only.

use std::fs;

use crate::{Outcome, Trouble};

/// Ticks of `/proc/PID/stat` in a second: fixed at 100 in Linux's interface to programs.
const TICKS: f64 = 100.0;

/// CPU seconds, user and system, of the process's own threads so far.
///
/// # Errors
/// When there is no such process.
pub fn cpu_seconds(pid: u32) -> Outcome<f64> {
    // Fields 14 and 15 of proc(5); the state, field 3, is the first after the name.
    times(pid, 11)
}

/// CPU seconds of the process, of its children now, and of those that it had and has outlived.
///
/// # Errors
/// When there is no such process.
pub fn cpu_seconds_with_children(pid: u32) -> Outcome<f64> {
    // A child that ends at this moment is missed once, and found among the ended at the next look.
    let now: f64 = children(pid).into_iter().filter_map(|child| cpu_seconds(child).ok()).sum();
    Ok(now + cpu_seconds(pid)? + times(pid, 13)?)
}

fn times(pid: u32, first: usize) -> Outcome<f64> {
    let stat = read(pid, "stat")?;
    let fields = after_name(&stat);
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok());
    match (ticks(first), ticks(first + 1)) {
        (Some(user), Some(system)) => Ok((user + system) / TICKS),
        _ => Err(Trouble::new(format!("/proc/{pid}/stat has no times"))),
    }
}

/// The most memory, in MiB, that the process has had resident at once.
///
/// # Errors
/// When there is no such process.
pub fn peak_mib(pid: u32) -> Outcome<f64> {
    kib(pid, "VmHWM:")
}

/// The memory, in MiB, that the process has resident now.
///
/// # Errors
/// When there is no such process.
pub fn resident_mib(pid: u32) -> Outcome<f64> {
    kib(pid, "VmRSS:")
}

fn kib(pid: u32, key: &str) -> Outcome<f64> {
    let status = read(pid, "status")?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<f64>().ok())
        .map(|kib| kib / 1024.0)
        .ok_or_else(|| Trouble::new(format!("/proc/{pid}/status has no {key}")))
}

/// Processes whose parent is `pid`.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|other| parent(*other) == Some(pid))
        .collect()
}

/// Whether there is such a process, and it is not a zombie.
#[must_use]
pub fn lives(pid: u32) -> bool {
    read(pid, "stat").is_ok_and(|stat| after_name(&stat).first().is_some_and(|state| *state != "Z"))
}

fn parent(pid: u32) -> Option<u32> {
    let stat = read(pid, "stat").ok()?;
    after_name(&stat).get(1)?.parse().ok()
}

/// The fields after the program's name, which may itself hold spaces and brackets.
fn after_name(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')').map_or(stat, |(_, rest)| rest).split_whitespace().collect()
}

fn read(pid: u32, file: &str) -> Outcome<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).map_err(|error| Trouble::new(format!("{path}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_time_and_a_parent_that_lists_it() {
        let pid = std::process::id();
        assert!(peak_mib(pid).expect("own status") >= resident_mib(pid).expect("own status") * 0.5);
        assert!(cpu_seconds(pid).expect("own stat") >= 0.0);
        let above = parent(pid).expect("own parent");
        assert!(children(above).contains(&pid));
        assert!(lives(pid));
    }

    #[test]
    fn a_process_that_is_not_there_is_told_so() {
        assert!(cpu_seconds(u32::MAX).is_err());
        assert!(!lives(u32::MAX));
    }
}
