//! How much memory there is: the machine's, or the container's where that is less.

use std::fs;

/// Assumed where the system does not say.
const UNKNOWN_MEMORY_BYTES: u64 = 4 << 30;

pub fn memory_bytes() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of_meminfo(&text));
    let container = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    machine.into_iter().chain(container).min().unwrap_or(UNKNOWN_MEMORY_BYTES)
}

fn total_of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_total() {
        assert_eq!(total_of_meminfo("MemTotal:       24000000 kB\nMemFree: 1 kB\n"), Some(24_576_000_000));
        assert_eq!(total_of_meminfo("nothing"), None);
        assert!(memory_bytes() > 0);
    }
}
