//! The tables: their schemas, and rows as record batches.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use arrow::array::{
    ArrayRef, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::epidemic::{
    AGE_GROUPS, DISEASES, FACILITIES_PER_REGION, REGIONS, REGIONS_PER_STATE, VARIANTS, epoch_days, hash, serial_interval, unit,
};

const SECONDS_PER_DAY: i64 = 86_400;
/// TEST CASE HOSP ICU DEATH VACC, with the share of events up to and including each.
const EVENT_TYPES: [(&str, f64); 6] = [("TEST", 0.70), ("CASE", 0.88), ("HOSP", 0.93), ("ICU", 0.945), ("DEATH", 0.955), ("VACC", 1.0)];

fn schema(fields: &[(&str, DataType, bool)]) -> SchemaRef {
    let fields: Vec<Field> = fields
        .iter()
        .enumerate()
        .map(|(index, (name, data_type, nullable))| {
            let id = HashMap::from([("PARQUET:field_id".to_owned(), (index + 1).to_string())]);
            Field::new(*name, data_type.clone(), *nullable).with_metadata(id)
        })
        .collect();
    Arc::new(Schema::new(fields))
}

pub fn events_schema() -> SchemaRef {
    schema(&[
        ("event_id", DataType::Int64, false),
        ("event_ts", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        ("event_date", DataType::Date32, false),
        ("region_id", DataType::Int32, false),
        ("facility_id", DataType::Int32, false),
        ("disease_code", DataType::Utf8, false),
        ("event_type", DataType::Utf8, false),
        ("result", DataType::Utf8, true),
        ("age_group", DataType::Int32, false),
        ("sex", DataType::Int32, false),
        ("variant", DataType::Utf8, true),
        ("onset_date", DataType::Date32, true),
        ("ct_value", DataType::Decimal128(5, 1), true),
        ("person_id", DataType::Int64, false),
    ])
}

/// One event: what the epidemic decided, the rest is hashed from its row number.
pub struct Event {
    pub row: u64,
    pub date: i32,
    pub disease: u32,
    pub region: u32,
}

/// Rows of `events`, in the order given.
pub fn events_batch(seed: u64, persons: u64, events: &[Event]) -> Result<RecordBatch> {
    let draw = |event: &Event, column: u64| unit(seed, event.row, column);
    let event_type = |event: &Event| EVENT_TYPES.iter().find(|(_, upto)| draw(event, 10) < *upto).map_or("TEST", |(name, _)| *name);
    let result = |event: &Event| {
        (event_type(event) == "TEST").then(|| match draw(event, 11) {
            share if share < 0.12 => "POS",
            share if share < 0.98 => "NEG",
            _ => "IND",
        })
    };
    let positive = |event: &Event| result(event) == Some("POS");
    let ill = |event: &Event| positive(event) || !matches!(event_type(event), "TEST" | "VACC");
    // Old people are ill more often, children are tested more: a simple skew.
    let age = |event: &Event| ((draw(event, 12).sqrt() * f64::from(AGE_GROUPS)) as i32).min(AGE_GROUPS as i32 - 1);
    let variant = |event: &Event| {
        ill(event).then(|| {
            VARIANTS[(hash(seed, u64::from(event.date as u32 / 300), 13) + u64::from(draw(event, 14) < 0.2)) as usize % VARIANTS.len()]
        })
    };
    let columns: Vec<ArrayRef> =
        vec![
            Arc::new(Int64Array::from_iter_values(events.iter().map(|event| event.row as i64))),
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(events.iter().map(|event| {
                    (i64::from(event.date) * SECONDS_PER_DAY + (draw(event, 15) * SECONDS_PER_DAY as f64) as i64) * 1_000_000
                }))
                .with_timezone("UTC"),
            ),
            Arc::new(Date32Array::from_iter_values(events.iter().map(|event| event.date))),
            Arc::new(Int32Array::from_iter_values(events.iter().map(|event| event.region as i32))),
            Arc::new(Int32Array::from_iter_values(
                events.iter().map(|event| {
                    (event.region * FACILITIES_PER_REGION) as i32 + (draw(event, 16) * f64::from(FACILITIES_PER_REGION)) as i32
                }),
            )),
            Arc::new(StringArray::from_iter_values(events.iter().map(|event| DISEASES[event.disease as usize]))),
            Arc::new(StringArray::from_iter_values(events.iter().map(event_type))),
            Arc::new(StringArray::from_iter(events.iter().map(result))),
            Arc::new(Int32Array::from_iter_values(events.iter().map(age))),
            Arc::new(Int32Array::from_iter_values(events.iter().map(|event| (hash(seed, event.row, 17) % 2) as i32))),
            Arc::new(StringArray::from_iter(events.iter().map(variant))),
            Arc::new(Date32Array::from_iter(events.iter().map(|event| ill(event).then(|| event.date - (draw(event, 18) * 7.0) as i32)))),
            Arc::new(
                Decimal128Array::from_iter(events.iter().map(|event| positive(event).then(|| 120 + (draw(event, 19) * 250.0) as i128)))
                    .with_precision_and_scale(5, 1)?,
            ),
            Arc::new(Int64Array::from_iter_values(events.iter().map(|event| (hash(seed, event.row, 20) % persons) as i64))),
        ];
    Ok(RecordBatch::try_new(events_schema(), columns)?)
}

/// `region`: population in all and by age group, in 50 states.
pub fn regions(seed: u64) -> Result<RecordBatch> {
    let mut fields = vec![
        ("region_id", DataType::Int32, false),
        ("state_id", DataType::Int32, false),
        ("name", DataType::Utf8, false),
        ("population", DataType::Int64, false),
    ];
    let ages: Vec<String> = (0..AGE_GROUPS).map(|age| format!("population_age_{age}")).collect();
    fields.extend(ages.iter().map(|name| (name.as_str(), DataType::Int64, false)));
    let of_age = |region: u32, age: u32| 2_000 + (hash(seed, u64::from(region * AGE_GROUPS + age), 30) % 30_000) as i64;
    let ids = 0..REGIONS;
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(ids.clone().map(|id| id as i32))),
        Arc::new(Int32Array::from_iter_values(ids.clone().map(|id| (id / REGIONS_PER_STATE) as i32))),
        Arc::new(StringArray::from_iter_values(ids.clone().map(|id| format!("Region {id:04}")))),
        Arc::new(Int64Array::from_iter_values(ids.clone().map(|id| (0..AGE_GROUPS).map(|age| of_age(id, age)).sum()))),
    ];
    for age in 0..AGE_GROUPS {
        columns.push(Arc::new(Int64Array::from_iter_values(ids.clone().map(|id| of_age(id, age)))));
    }
    Ok(RecordBatch::try_new(schema(&fields), columns)?)
}

/// `facility`: eight to a region.
pub fn facilities(seed: u64) -> Result<RecordBatch> {
    const KINDS: [&str; 4] = ["HOSPITAL", "CLINIC", "LABORATORY", "PHARMACY"];
    let ids = 0..REGIONS * FACILITIES_PER_REGION;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(ids.clone().map(|id| id as i32))),
        Arc::new(Int32Array::from_iter_values(ids.clone().map(|id| (id / FACILITIES_PER_REGION) as i32))),
        Arc::new(StringArray::from_iter_values(ids.clone().map(|id| format!("Facility {id:05}")))),
        Arc::new(StringArray::from_iter_values(ids.clone().map(|id| KINDS[(hash(seed, u64::from(id), 31) % 4) as usize]))),
        Arc::new(Int32Array::from_iter_values(ids.map(|id| 10 + (hash(seed, u64::from(id), 32) % 900) as i32))),
    ];
    let fields = [
        ("facility_id", DataType::Int32, false),
        ("region_id", DataType::Int32, false),
        ("name", DataType::Utf8, false),
        ("kind", DataType::Utf8, false),
        ("beds", DataType::Int32, false),
    ];
    Ok(RecordBatch::try_new(schema(&fields), columns)?)
}

pub fn persons_schema() -> SchemaRef {
    schema(&[
        ("person_id", DataType::Int64, false),
        ("birth_date", DataType::Date32, false),
        ("sex", DataType::Int32, false),
        ("region_id", DataType::Int32, false),
    ])
}

/// Rows `range` of `person`.
pub fn persons_batch(seed: u64, range: std::ops::Range<u64>) -> Result<RecordBatch> {
    let latest = epoch_days(crate::epidemic::first_day());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(range.clone().map(|id| id as i64))),
        Arc::new(Date32Array::from_iter_values(range.clone().map(|id| latest - (unit(seed, id, 33) * 33_000.0) as i32))),
        Arc::new(Int32Array::from_iter_values(range.clone().map(|id| (hash(seed, id, 34) % 2) as i32))),
        Arc::new(Int32Array::from_iter_values(range.map(|id| (hash(seed, id, 35) % u64::from(REGIONS)) as i32))),
    ];
    Ok(RecordBatch::try_new(persons_schema(), columns)?)
}

/// `serial_interval`: the weight of each day from one infection to the next.
pub fn serial_intervals() -> Result<RecordBatch> {
    let weights = serial_interval();
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int32Array::from_iter_values(1..=weights.len() as i32)), Arc::new(Float64Array::from(weights))];
    Ok(RecordBatch::try_new(schema(&[("k", DataType::Int32, false), ("w_k", DataType::Float64, false)]), columns)?)
}
