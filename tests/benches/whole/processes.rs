//! What processes have used: CPU time as the kernel counts it.

use std::time::Duration;

use causeway_tests::process::Process;

/// Ticks per second in `/proc/<pid>/stat`: fixed at 100 for user space on Linux.
const TICKS: u32 = 100;

/// CPU time of some processes together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu: Duration,
}

impl Usage {
    /// Until now, since they started.
    pub(crate) fn of(processes: &[Process]) -> Self {
        let ticks: u64 = processes.iter().map(|process| ticks(process.id()).unwrap_or_default()).sum();
        Self { cpu: Duration::from_secs_f64(ticks as f64 / f64::from(TICKS)) }
    }

    /// What was used after `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(before.cpu) }
    }
}

/// Fields 14 and 15 of `/proc/<pid>/stat` (proc(5)), counted behind the command name, which may hold spaces.
fn ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}
