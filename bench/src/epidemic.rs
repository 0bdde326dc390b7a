//! The model: who falls ill where and when. Everything is a hash of (seed, row, column), so a row can be made alone and
//! every run makes the same rows.

use chrono::{Datelike, Days, NaiveDate};

pub const REGIONS: u32 = 3_200;
pub const REGIONS_PER_STATE: u32 = 64;
pub const FACILITIES_PER_REGION: u32 = 8;
pub const AGE_GROUPS: u32 = 9;
pub const MONTHS: u32 = 60;
pub const DISEASES: [&str; 12] =
    ["COVID19", "INFLUENZA", "RSV", "MEASLES", "PERTUSSIS", "DENGUE", "CHOLERA", "TB", "HEPATITIS", "MPOX", "EBOLA", "POLIO"];
pub const VARIANTS: [&str; 6] = ["ALPHA", "BETA", "DELTA", "OMICRON", "JN1", "XEC"];

/// How common each disease is, most common first.
const DISEASE_WEIGHTS: [f64; 12] = [40.0, 20.0, 12.0, 6.0, 5.0, 5.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.5];
/// Waves are tabulated for so many phases; a region and disease pick one.
const PHASES: usize = 97;
/// Days from one wave of a region to the next.
const WAVE_DAYS: f64 = 180.0;
/// Growth of ln(incidence) between trough and crest, halved.
const WAVE_HEIGHT: f64 = 1.4;

/// A well mixed 64-bit hash of three numbers (finaliser of SplitMix64, Steele et al. 2014).
pub fn hash(seed: u64, row: u64, column: u64) -> u64 {
    let mut z = seed ^ row.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ column.wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The hash as a number in [0, 1).
pub fn unit(seed: u64, row: u64, column: u64) -> f64 {
    (hash(seed, row, column) >> 11) as f64 / (1u64 << 53) as f64
}

/// The first day of the data: 2021-01-01.
pub fn first_day() -> NaiveDate {
    NaiveDate::from_ymd_opt(2021, 1, 1).unwrap_or_default()
}

pub fn month_start(month: u32) -> NaiveDate {
    let first = first_day();
    let months = first.month0() + month;
    NaiveDate::from_ymd_opt(first.year() + (months / 12) as i32, months % 12 + 1, 1).unwrap_or_default()
}

/// Days since 1970-01-01, as Arrow's and Iceberg's DATE have it.
pub fn epoch_days(date: NaiveDate) -> i32 {
    date.signed_duration_since(NaiveDate::default()).num_days() as i32
}

/// Daily incidence by phase, with its sums by month: the wave of each region and disease is one of these.
pub struct Epidemic {
    seed: u64,
    events: f64,
    month_first_day: Vec<usize>,
    incidence: Vec<Vec<f64>>,
    month_share: Vec<Vec<f64>>,
    region_share: Vec<f64>,
}

/// The events of one disease in one region in one month.
pub struct Cell {
    pub disease: u32,
    pub region: u32,
    pub events: u32,
}

impl Epidemic {
    pub fn new(seed: u64, events: u64) -> Self {
        let month_first_day: Vec<usize> =
            (0..=MONTHS).map(|month| month_start(month).signed_duration_since(first_day()).num_days() as usize).collect();
        let days = month_first_day[MONTHS as usize];
        let incidence: Vec<Vec<f64>> = (0..PHASES).map(|phase| (0..days).map(|day| wave(day, phase)).collect()).collect();
        let month_share = incidence
            .iter()
            .map(|by_day| {
                let total: f64 = by_day.iter().sum();
                month_first_day.windows(2).map(|month| by_day[month[0]..month[1]].iter().sum::<f64>() / total).collect()
            })
            .collect();
        let weights: Vec<f64> = (0..REGIONS).map(|region| 1.0 / (1.0 + f64::from(rank(seed, region))).powf(0.8)).collect();
        let total: f64 = weights.iter().sum();
        let region_share = weights.iter().map(|weight| weight / total).collect();
        Self { seed, events: events as f64, month_first_day, incidence, month_share, region_share }
    }

    /// The cells of a month that hold events, by disease, then region.
    pub fn month(&self, month: u32) -> impl Iterator<Item = Cell> + '_ {
        let total_weight: f64 = DISEASE_WEIGHTS.iter().sum();
        (0..DISEASES.len() as u32).flat_map(move |disease| {
            let of_disease = self.events * DISEASE_WEIGHTS[disease as usize] / total_weight;
            (0..REGIONS).filter_map(move |region| {
                let expected =
                    of_disease * self.region_share[region as usize] * self.month_share[self.phase(disease, region)][month as usize];
                let cell = u64::from((month * DISEASES.len() as u32 + disease) * REGIONS + region);
                let events = (expected + unit(self.seed, cell, 1)) as u32;
                (events > 0).then_some(Cell { disease, region, events })
            })
        })
    }

    /// The days of a cell's events, ascending: drawn from the month's part of the wave.
    pub fn days(&self, month: u32, cell: &Cell, first_row: u64) -> Vec<NaiveDate> {
        let by_day = &self.incidence[self.phase(cell.disease, cell.region)];
        let range = self.month_first_day[month as usize]..self.month_first_day[month as usize + 1];
        let cumulative: Vec<f64> = by_day[range.clone()]
            .iter()
            .scan(0.0, |sum, value| {
                *sum += value;
                Some(*sum)
            })
            .collect();
        let total = cumulative.last().copied().unwrap_or(1.0);
        let mut offsets: Vec<usize> = (0..u64::from(cell.events))
            .map(|event| cumulative.partition_point(|sum| *sum < unit(self.seed, first_row + event, 2) * total).min(cumulative.len() - 1))
            .collect();
        offsets.sort_unstable();
        offsets.into_iter().map(|offset| first_day() + Days::new((range.start + offset) as u64)).collect()
    }

    fn phase(&self, disease: u32, region: u32) -> usize {
        (hash(self.seed, u64::from(disease * REGIONS + region), 3) % PHASES as u64) as usize
    }
}

/// Weights w_k of the serial interval in days, k from 1: a discretised gamma with mean 5.2 and deviation 2.8, cut at 20.
pub fn serial_interval() -> Vec<f64> {
    let (mean, deviation) = (5.2f64, 2.8f64);
    let shape = (mean / deviation).powi(2);
    let scale = deviation.powi(2) / mean;
    let density: Vec<f64> = (1..=20).map(|day| f64::from(day).powf(shape - 1.0) * (-f64::from(day) / scale).exp()).collect();
    let total: f64 = density.iter().sum();
    density.iter().map(|value| value / total).collect()
}

fn wave(day: usize, phase: usize) -> f64 {
    let turn = day as f64 / WAVE_DAYS + phase as f64 / PHASES as f64;
    (WAVE_HEIGHT * (turn * std::f64::consts::TAU).sin()).exp()
}

/// A permutation of the regions, so that size says nothing about the number.
fn rank(seed: u64, region: u32) -> u32 {
    let step = 1 + 2 * (hash(seed, 7, 4) % 799) as u32;
    let step = if step.is_multiple_of(5) { step + 2 } else { step };
    (region * step + 11) % REGIONS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_epidemic_and_about_the_events_asked_for() {
        let count = |seed| {
            let epidemic = Epidemic::new(seed, 2_000_000);
            (0..MONTHS).flat_map(|month| epidemic.month(month).map(|cell| u64::from(cell.events)).collect::<Vec<_>>()).sum::<u64>()
        };
        let events = count(1);
        assert_eq!(events, count(1));
        assert!((1_960_000..2_040_000).contains(&events), "{events}");
    }

    #[test]
    fn ranks_are_a_permutation() {
        for seed in 0..50 {
            let mut seen: Vec<u32> = (0..REGIONS).map(|region| rank(seed, region)).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), REGIONS as usize, "seed {seed}");
        }
    }

    #[test]
    fn a_cell_s_days_are_sorted_and_within_its_month() {
        let epidemic = Epidemic::new(1, 50_000_000);
        let cell = Cell { disease: 0, region: 5, events: 100 };
        let days = epidemic.days(13, &cell, 1_000);
        assert_eq!(days.len(), 100);
        assert!(days.is_sorted());
        assert!(days.iter().all(|day| (day.year(), day.month()) == (2022, 2)));
    }
}
