//! The fields that all of point formats 6 to 10 have, in nine layers.
//!
//! Every point starts with a symbol that says which fields differ from the last point of its scanner channel. Each channel
//! has its own models and last values, which start as those of the channel before when it is first met.

use super::arithmetic::{DAMAGED, Decoded, END, Layer, Model, Models};
use super::integer::Integers;
use super::time::Series;

/// Bytes of these fields in a record.
pub(super) const BYTES: usize = 30;
/// Layers of these fields.
pub(super) const LAYERS: usize = 9;

// What differs from the last point, beside the return number in bits 0 and 1.
const RETURNS: usize = 1 << 2;
const ANGLE: usize = 1 << 3;
const TIME: usize = 1 << 4;
const SOURCE: usize = 1 << 5;
const CHANNEL: usize = 1 << 6;

/// Kinds of returns by their number and how many the pulse has: row the latter, column the former. Pulses of one, two
/// and three returns are told apart from others; impossible pairs are given somewhere, too.
const KINDS: [[u8; 16]; 16] = [
    [0, 1, 2, 3, 4, 5, 3, 4, 4, 5, 5, 5, 5, 5, 5, 5],
    [1, 0, 1, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3],
    [2, 1, 2, 4, 4, 4, 4, 4, 4, 4, 4, 3, 3, 3, 3, 3],
    [3, 3, 4, 5, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4],
    [4, 3, 4, 4, 5, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4],
    [5, 3, 4, 4, 4, 5, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4],
    [3, 3, 4, 4, 4, 4, 5, 4, 4, 4, 4, 4, 4, 4, 4, 4],
    [4, 3, 4, 4, 4, 4, 4, 5, 4, 4, 4, 4, 4, 4, 4, 4],
    [4, 3, 4, 4, 4, 4, 4, 4, 5, 4, 4, 4, 4, 4, 4, 4],
    [5, 3, 4, 4, 4, 4, 4, 4, 4, 5, 4, 4, 4, 4, 4, 4],
    [5, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5, 4, 4, 4, 4, 4],
    [5, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5, 4, 4, 4],
    [5, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 4, 4],
    [5, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 4],
    [5, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5],
    [5, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5],
];

/// The fields of a record, bytes 0 to 29.
#[derive(Clone, Copy)]
struct Fields {
    xyz: [i32; 3],
    intensity: u16,
    /// Return number, 0 to 15.
    number: u8,
    /// Returns of the pulse, 0 to 15.
    returns: u8,
    /// Scanner channel, 0 to 3.
    channel: u8,
    /// Bits 0 to 3 the classification flags, bit 4 the scan direction, bit 5 the edge of the flight line.
    flags: u8,
    class: u8,
    user: u8,
    angle: i16,
    source: u16,
    time: i64,
}

impl Fields {
    fn read(b: &[u8; BYTES]) -> Fields {
        let int = |at: usize| i32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let short = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        Fields {
            xyz: [int(0), int(4), int(8)],
            intensity: short(12),
            number: b[14] & 15,
            returns: b[14] >> 4,
            channel: b[15] >> 4 & 3,
            flags: b[15] & 15 | b[15] >> 2 & 0x30,
            class: b[16],
            user: b[17],
            angle: short(18) as i16,
            source: short(20),
            time: i64::from(int(26)) << 32 | i64::from(int(22) as u32),
        }
    }

    fn write(&self, b: &mut [u8]) {
        for (bytes, x) in b.chunks_exact_mut(4).zip(self.xyz) {
            bytes.copy_from_slice(&x.to_le_bytes());
        }
        b[12..14].copy_from_slice(&self.intensity.to_le_bytes());
        b[14] = self.returns << 4 | self.number;
        b[15] = self.flags & 15 | self.channel << 4 | (self.flags & 0x30) << 2;
        b[16] = self.class;
        b[17] = self.user;
        b[18..20].copy_from_slice(&self.angle.to_le_bytes());
        b[20..22].copy_from_slice(&self.source.to_le_bytes());
        b[22..30].copy_from_slice(&self.time.to_le_bytes());
    }

    /// Bit 0: the last return of its pulse, bit 1: the first.
    fn place(&self) -> usize {
        usize::from(self.number >= self.returns) | usize::from(self.number == 1) << 1
    }
}

/// About the median of the last values: a new one takes the place of the largest and of the smallest in turn.
#[derive(Default, Clone, Copy)]
struct Median {
    sorted: [i32; 5],
    /// Whether the smallest goes next.
    low: bool,
}

impl Median {
    fn get(&self) -> i32 {
        self.sorted[2]
    }

    fn push(&mut self, value: i32) {
        let middle = self.get();
        let gone = if self.low { 0 } else { 4 };
        // The other end goes next once a value lies on the side of the gap, or on the median.
        self.low = match self.low {
            true => value > middle,
            false => value >= middle,
        };
        let mut at = gone;
        while at > 0 && self.sorted[at - 1] > value {
            self.sorted[at] = self.sorted[at - 1];
            at -= 1;
        }
        while at < 4 && self.sorted[at + 1] < value {
            self.sorted[at] = self.sorted[at + 1];
            at += 1;
        }
        self.sorted[at] = value;
    }
}

/// What a scanner channel's next point is predicted by.
struct Channel {
    last: Fields,
    /// Whether the last point's time differed from the one before.
    new_time: bool,
    /// Last differences of x and y by kind of return and whether the time is new.
    steps: [[Median; 12]; 2],
    /// Last z by how many returns are left.
    z: [i32; 8],
    /// Last intensity by place in the pulse and whether the time is new.
    intensity: [u16; 8],
    series: Series,

    changes: Models,
    channels: Model,
    returns: Models,
    numbers: Models,
    number_steps: Model,
    classes: Models,
    flags: Models,
    users: Models,
    xyz_integers: [Integers; 3],
    intensities: Integers,
    angles: Integers,
    sources: Integers,
}

impl Channel {
    fn new(first: Fields) -> Channel {
        Channel {
            last: first,
            new_time: false,
            steps: Default::default(),
            z: [first.xyz[2]; 8],
            intensity: [first.intensity; 8],
            series: Series::new(first.time),
            changes: Models::new(8, 128),
            channels: Model::new(3),
            returns: Models::new(16, 16),
            numbers: Models::new(16, 16),
            number_steps: Model::new(13),
            classes: Models::new(64, 256),
            flags: Models::new(64, 64),
            users: Models::new(64, 256),
            xyz_integers: [(32, 2), (32, 22), (32, 20)].map(|(b, c)| Integers::new(b, c)),
            intensities: Integers::new(16, 4),
            angles: Integers::new(16, 2),
            sources: Integers::new(16, 1),
        }
    }

    /// Which fields of the next point differ.
    fn changes(&mut self, layer: &mut Layer) -> Decoded<usize> {
        let context = self.last.place();
        // The two bits lie the other way round here.
        let context = context >> 1 | (context & 1) << 1 | usize::from(self.new_time) << 2;
        layer.symbol(self.changes.get(context))
    }

    /// How many returns the pulse has and which one this is.
    fn pulse(&mut self, layer: &mut Layer, changes: usize) -> Decoded<()> {
        let last = &mut self.last;
        if changes & RETURNS != 0 {
            last.returns = layer.symbol(self.returns.get(last.returns.into()))? as u8;
        }
        last.number = match changes & 3 {
            0 => last.number,
            1 => (last.number + 1) % 16,
            2 => (last.number + 15) % 16,
            _ if changes & TIME != 0 => layer.symbol(self.numbers.get(last.number.into()))? as u8,
            _ => (last.number + 2 + layer.symbol(&mut self.number_steps)? as u8) % 16,
        };
        Ok(())
    }

    /// x and y, which lie in the first layer, too.
    fn xy(&mut self, layer: &mut Layer, new_time: bool) -> Decoded<()> {
        let last = &mut self.last;
        let kind = KINDS[usize::from(last.returns)][usize::from(last.number)];
        let kind = usize::from(kind) << 1 | usize::from(new_time);
        let single = usize::from(last.returns == 1);
        for axis in 0..2 {
            let context = match axis {
                0 => single,
                _ => single + even(self.xyz_integers[0].size(), 20),
            };
            let median = &mut self.steps[axis][kind];
            let step = self.xyz_integers[axis].next(layer, median.get(), context)?;
            last.xyz[axis] = last.xyz[axis].wrapping_add(step);
            median.push(step);
        }
        Ok(())
    }

    fn z(&mut self, layer: &mut Layer) -> Decoded<()> {
        let last = &mut self.last;
        let left = usize::from(last.returns.abs_diff(last.number).min(7));
        let size = (self.xyz_integers[0].size() + self.xyz_integers[1].size()) / 2;
        let context = usize::from(last.returns == 1) + even(size, 18);
        last.xyz[2] = self.xyz_integers[2].next(layer, self.z[left], context)?;
        self.z[left] = last.xyz[2];
        Ok(())
    }

    fn class(&mut self, layer: &mut Layer) -> Decoded<()> {
        let only = usize::from(self.last.place() == 3);
        let context = usize::from(self.last.class & 31) << 1 | only;
        self.last.class = layer.symbol(self.classes.get(context))? as u8;
        Ok(())
    }

    fn intensity(&mut self, layer: &mut Layer, new_time: bool) -> Decoded<()> {
        let place = self.last.place();
        let last = &mut self.intensity[place << 1 | usize::from(new_time)];
        *last = self.intensities.next(layer, (*last).into(), place)? as u16;
        self.last.intensity = *last;
        Ok(())
    }
}

/// A number of bits as a context: even, at most `most`.
fn even(size: u32, most: u32) -> usize {
    (size & !1).min(most) as usize
}

/// Decodes these fields point by point.
pub(super) struct Points {
    layers: [Option<Layer>; LAYERS],
    channels: [Option<Box<Channel>>; 4],
    channel: usize,
    version: u16,
}

impl Points {
    /// Starts at the first record. A layer without bytes says that its field never changes.
    pub fn new(version: u16, first: &[u8; BYTES], layers: [Option<Layer>; LAYERS]) -> Points {
        let first = Fields::read(first);
        let mut channels = [const { None }; 4];
        let channel = usize::from(first.channel);
        channels[channel] = Some(Box::new(Channel::new(first)));
        Points {
            layers,
            channels,
            channel,
            version,
        }
    }

    /// The channel of the first point.
    pub fn channel(&self) -> usize {
        self.channel
    }

    /// Decodes the next point. Gives the channel that its other fields go by.
    pub fn next(&mut self, record: &mut [u8]) -> Decoded<usize> {
        let [first, z, class, flags, intensity, angle, user, source, time] = &mut self.layers;
        let first = first.as_mut().ok_or(END)?;
        let channel = self.channels[self.channel].as_mut().ok_or(DAMAGED)?;
        let changes = channel.changes(first)?;
        if changes & CHANNEL != 0 {
            let last = channel.last;
            self.channel = (self.channel + 1 + first.symbol(&mut channel.channels)?) % 4;
            let next = &mut self.channels[self.channel];
            let next = next.get_or_insert_with(|| Box::new(Channel::new(last)));
            next.last.channel = self.channel as u8;
        }
        let channel = self.channels[self.channel].as_mut().ok_or(DAMAGED)?;
        let new_time = changes & TIME != 0;
        channel.pulse(first, changes)?;
        channel.xy(first, new_time)?;
        if let Some(z) = z {
            channel.z(z)?;
        }
        if let Some(class) = class {
            channel.class(class)?;
        }
        if let Some(flags) = flags {
            let model = channel.flags.get(channel.last.flags.into());
            channel.last.flags = flags.symbol(model)? as u8;
        }
        if let Some(intensity) = intensity {
            channel.intensity(intensity, new_time)?;
        }
        let last = &mut channel.last;
        if let Some(angle) = angle
            && changes & ANGLE != 0
        {
            let integers = &mut channel.angles;
            last.angle = integers.next(angle, last.angle.into(), new_time.into())? as i16;
        }
        if let Some(user) = user {
            last.user = user.symbol(channel.users.get(usize::from(last.user / 4)))? as u8;
        }
        if let Some(source) = source
            && changes & SOURCE != 0
        {
            last.source = channel.sources.next(source, last.source.into(), 0)? as u16;
        }
        if let Some(time) = time
            && new_time
        {
            last.time = channel.series.next(time)?;
        }
        channel.new_time = new_time;
        last.write(record);
        // Version 3 names the channel only where it changes, and else the first: a slip of the format's first program.
        match self.version == 4 || changes & CHANNEL != 0 {
            true => Ok(self.channel),
            false => Ok(0),
        }
    }
}
