//! MCAP bags of robots: every `sensor_msgs/PointCloud2` of a topic gets its labels, everything else is copied.
//!
//! A bag is no single scan, so it is not in the list of formats: [`label`] goes through it message by message and hands
//! each cloud to the caller. Messages keep their bytes, order, times and numbers; a labelled cloud has the fields `label`
//! (i32) and `confidence` (f32) behind the others. Schemas, channels, attachments and metadata are copied, indexes are
//! made anew, chunks are compressed with zstd.
//!
//! Compression and the content of records are the business of the crate `mcap`, which its format's makers keep. It
//! believes what lengths promise; they are compared with the bytes that are there before it sees them (`records.rs`).

mod cloud;
mod lengths;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use mcap::records::{Channel, Record};
use mcap::{McapError, WriteOptions};

use super::scan::Labels;
use super::{Atomic, open_regular};
use crate::cloud::PointCloud;
use crate::{Error, Result};
use cloud::{Encoding, Message};
use records::read;

/// What a bag holds on one topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topic {
    /// Name of the topic.
    pub name: String,
    /// Number of its messages.
    pub messages: u64,
}

/// One cloud of a bag.
#[derive(Debug)]
pub struct Frame {
    /// Number of the cloud on its topic, from 0.
    pub number: u64,
    /// When it was logged, nanoseconds.
    pub time: u64,
    /// Its points.
    pub cloud: PointCloud,
}

/// True when the file is a bag.
pub fn is_bag(path: &Path) -> bool {
    let mut head = [0; 8];
    open_regular(path).is_ok_and(|mut f| f.read_exact(&mut head).is_ok()) && is_head(&head)
}

/// True for the first bytes of a bag.
pub(super) fn is_head(head: &[u8]) -> bool {
    head.starts_with(mcap::MAGIC)
}

/// The topics with clouds, by name.
pub fn topics(path: &Path) -> Result<Vec<Topic>> {
    let mut clouds = Clouds::default();
    let mut topics: BTreeMap<String, u64> = BTreeMap::new();
    read(path, &mut |record| {
        clouds.see(&record);
        match &record {
            Record::Channel(channel) if clouds.channels.contains_key(&channel.id) => {
                topics.entry(channel.topic.clone()).or_default();
            }
            Record::Message { header, .. } => {
                if let Some((topic, _)) = clouds.channels.get(&header.channel_id) {
                    *topics.entry(topic.clone()).or_default() += 1;
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    let topic = |(name, messages)| Topic { name, messages };
    Ok(topics.into_iter().map(topic).collect())
}

/// The topic to label: the one that was asked for, or the only one.
pub fn choose(path: &Path, wanted: Option<&str>) -> Result<Topic> {
    let topics = topics(path)?;
    let list = || {
        let names: Vec<&str> = topics.iter().map(|t| t.name.as_str()).collect();
        names.join(", ")
    };
    match (wanted, topics.as_slice()) {
        (_, []) => Err(Error::unusable(
            path,
            "the bag holds no sensor_msgs/PointCloud2 in CDR or ROS 1 form",
        )),
        (None, [only]) => Ok(only.clone()),
        (None, _) => Err(Error::unusable(
            path,
            format!(
                "the bag has several topics with clouds; choose one with --topic: {}",
                list()
            ),
        )),
        (Some(name), _) => topics
            .iter()
            .find(|t| t.name == name)
            .cloned()
            .ok_or_else(|| {
                Error::unusable(
                    path,
                    format!("no clouds on the topic {name}, only on: {}", list()),
                )
            }),
    }
}

/// Copies a bag; `segment` gives the labels of each cloud on `topic`.
///
/// # Errors
/// Faults of the bag with the message that has them, and whatever `segment` returns.
pub fn label(
    path: &Path,
    output: &Path,
    topic: &str,
    segment: &mut dyn FnMut(Frame) -> Result<Labels>,
) -> Result<()> {
    let mut output = Atomic::create(output)?;
    let target = output.path().to_path_buf();
    let mut clouds = Clouds::default();
    let mut number = 0;
    {
        let mut writer = None;
        let mut sink = Some(&mut output);
        read(path, &mut |record| {
            clouds.see(&record);
            if let Record::Header(header) = &record {
                // A second header says nothing new.
                if let Some(sink) = sink.take() {
                    let options = WriteOptions::new()
                        .profile(header.profile.clone())
                        .library(header.library.clone());
                    let new = options.create(sink);
                    writer = Some(new.map_err(|e| writing(&target, e))?);
                }
                return Ok(());
            }
            let writer = (writer.as_mut())
                .ok_or_else(|| Error::malformed(path, "byte 8", "a bag starts with its header"))?;
            let mine = match &record {
                Record::Message { header, .. } => (clouds.channels.get(&header.channel_id))
                    .filter(|(name, _)| name == topic)
                    .map(|(_, encoding)| *encoding),
                _ => None,
            };
            let record = match (record, mine) {
                (Record::Message { header, data }, Some(encoding)) => {
                    let time = header.log_time;
                    let data = relabel(path, &data, encoding, number, time, segment)?;
                    number += 1;
                    Record::Message {
                        header,
                        data: data.into(),
                    }
                }
                (record, _) => record,
            };
            put(writer, record).map_err(|e| writing(&target, e))
        })?;
        let mut writer =
            writer.ok_or_else(|| Error::malformed(path, "byte 8", "the bag is empty"))?;
        writer.finish().map_err(|e| writing(&target, e))?;
    }
    output.finish()
}

/// One message with labels.
fn relabel(
    path: &Path,
    data: &[u8],
    encoding: Encoding,
    number: u64,
    time: u64,
    segment: &mut dyn FnMut(Frame) -> Result<Labels>,
) -> Result<Vec<u8>> {
    let fault = |fault: String| Error::malformed(path, format!("cloud {number}"), fault);
    let mut message = Message::read(data, encoding).map_err(fault)?;
    let cloud = message.cloud().map_err(fault)?;
    let labels = segment(Frame {
        number,
        time,
        cloud,
    })?;
    labels.check_count(message.len())?;
    message.label(&labels.code, &labels.confidence);
    Ok(message.write())
}

/// Writes a record as it is; what the writer makes itself is left out.
fn put<W: std::io::Write + std::io::Seek>(
    writer: &mut mcap::Writer<W>,
    record: Record<'_>,
) -> mcap::McapResult<()> {
    match record {
        Record::Schema { header, data } => {
            writer.add_schema_with_id(header.id, &header.name, &header.encoding, &data)?;
        }
        Record::Channel(c) => {
            let Channel {
                id,
                schema_id,
                topic,
                message_encoding,
                metadata,
            } = c;
            writer.add_channel_with_id(id, schema_id, &topic, &message_encoding, &metadata)?;
        }
        Record::Message { header, data } => writer.write_to_known_channel(&header, &data)?,
        Record::Attachment { header, data, .. } => writer.attach(&mcap::Attachment {
            log_time: header.log_time,
            create_time: header.create_time,
            name: header.name,
            media_type: header.media_type,
            data,
        })?,
        Record::Metadata(metadata) => writer.write_metadata(&metadata)?,
        _ => {}
    }
    Ok(())
}

fn writing(path: &Path, error: McapError) -> Error {
    match error {
        McapError::Io(source) => Error::io(path, source),
        other => Error::unusable(path, other.to_string()),
    }
}

/// The channels whose messages are clouds.
#[derive(Default)]
struct Clouds {
    schemas: BTreeSet<u16>,
    channels: BTreeMap<u16, (String, Encoding)>,
}

impl Clouds {
    fn see(&mut self, record: &Record<'_>) {
        match record {
            Record::Schema { header, .. } => {
                let names = ["sensor_msgs/msg/PointCloud2", "sensor_msgs/PointCloud2"];
                if names.contains(&header.name.as_str()) {
                    self.schemas.insert(header.id);
                }
            }
            Record::Channel(channel) if self.schemas.contains(&channel.schema_id) => {
                let encoding = match channel.message_encoding.as_str() {
                    "cdr" => Encoding::Cdr,
                    "ros1" => Encoding::Ros1,
                    _ => return,
                };
                let found = (channel.topic.clone(), encoding);
                self.channels.insert(channel.id, found);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
