//! `lazaret-bench`: makes the data; the runner compares engines over it.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use lazaret_bench::generate;

#[derive(Parser)]
#[command(version, about = "EpiBench: data generator")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the tables of EpiBench as Delta and as Iceberg over the same rows
    Generate {
        /// An empty or new folder
        #[arg(long)]
        out: PathBuf,
        /// Events, about: 100k, 10m, 1b
        #[arg(long, default_value = "100k", value_parser = parse_scale)]
        scale: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Command::Generate { out, scale, seed } = Arguments::parse().command;
    if out.join("delta").exists() || out.join("iceberg").exists() {
        bail!("{} holds data already", out.display());
    }
    std::fs::create_dir_all(&out)?;
    let started = std::time::Instant::now();
    let made = generate::generate(&out, seed, scale).await?;
    println!("{} events, {} persons in {:.1} s", made.events, made.persons, started.elapsed().as_secs_f64());
    Ok(())
}

fn parse_scale(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, factor) = match lower.strip_suffix(['k', 'm', 'b']) {
        Some(digits) => (
            digits,
            if lower.ends_with('k') {
                1_000
            } else if lower.ends_with('m') {
                1_000_000
            } else {
                1_000_000_000
            },
        ),
        None => (lower.as_str(), 1),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|scale| *scale > 0)
        .ok_or_else(|| format!("{text} is no scale such as 100k, 10m or 1b"))
}
