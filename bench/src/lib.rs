//! EpiBench: a deterministic epidemic at any scale, written as a Delta and as an Iceberg table over the same Parquet
//! files, and the queries that race over it.

pub mod delta;
pub mod epidemic;
pub mod files;
pub mod generate;
pub mod iceberg;
pub mod tables;
