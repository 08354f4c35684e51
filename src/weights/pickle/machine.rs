//! The stack machine: opcodes of protocols 2 to 5, as far as `torch.save` writes them.

use super::{Graph, Id, PickleResult, Value};
use crate::weights::constructors;
use std::collections::HashMap;

/// Reads one pickle from the start of `bytes`. Returns its values, the number of the result, and the bytes taken.
pub fn parse(bytes: &[u8]) -> PickleResult<(Graph, Id, usize)> {
    let mut machine = Machine {
        bytes,
        at: 0,
        graph: Graph {
            values: Vec::new(),
            allowance: 4 * bytes.len() + 64,
        },
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    loop {
        let start = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(result)) => return Ok((machine.graph, result, machine.at)),
            Err(fault) => return Err(format!("pickle, byte {start}: {fault}")),
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    graph: Graph,
    stack: Vec<Id>,
    /// Heights of the stack at which a MARK stands.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, count: usize) -> PickleResult<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        if count > rest.len() {
            return Err(format!(
                "{count} bytes are announced, {} are left",
                rest.len()
            ));
        }
        self.at += count;
        Ok(&rest[..count])
    }

    /// A little-endian unsigned number of `count` bytes.
    fn number(&mut self, count: usize) -> PickleResult<u64> {
        let bytes = self.take(count)?;
        Ok(bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
    }

    /// Bytes preceded by their count, which itself takes `width` bytes.
    fn counted(&mut self, width: usize) -> PickleResult<&'a [u8]> {
        let count = self.number(width)?;
        self.take(usize::try_from(count).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> PickleResult<&'a str> {
        let rest = &self.bytes[self.at..];
        let end = rest
            .iter()
            .position(|&b| b == b'\n')
            .ok_or("a line does not end")?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| "a name is not UTF-8".into())
    }

    fn push(&mut self, value: Value) -> PickleResult<()> {
        let id = self.graph.push(value)?;
        self.stack.push(id);
        Ok(())
    }

    fn push_text(&mut self, bytes: &[u8]) -> PickleResult<()> {
        // Python lets lone surrogates through; no name of a tensor holds any.
        self.push(Value::Str(String::from_utf8_lossy(bytes).into_owned()))
    }

    /// Takes the top of the stack, but nothing from below the last mark.
    fn pop(&mut self) -> PickleResult<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the stack is empty".into());
        }
        Ok(self.stack.pop().expect("it was just found not to be empty"))
    }

    fn top(&self) -> PickleResult<Id> {
        self.stack
            .last()
            .copied()
            .ok_or_else(|| "the stack is empty".into())
    }

    fn pop_to_mark(&mut self) -> PickleResult<Vec<Id>> {
        let height = self.marks.pop().ok_or("there is no mark on the stack")?;
        Ok(self.stack.split_off(height))
    }

    fn pop_tuple(&mut self, count: usize) -> PickleResult<()> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Value::Tuple(items))
    }

    fn remember(&mut self, slot: u32) -> PickleResult<()> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> PickleResult<()> {
        let id = self
            .memo
            .get(&slot)
            .ok_or("it refers to a value that was not kept")?;
        self.stack.push(*id);
        Ok(())
    }

    fn append(&mut self, items: Vec<Id>) -> PickleResult<()> {
        let target = self.top()?;
        match self.graph.get_mut(target) {
            Value::List(list) => list.extend(items),
            Value::Opaque => {}
            other => return Err(format!("it appends to {}", other.kind())),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Id>) -> PickleResult<()> {
        if !items.len().is_multiple_of(2) {
            return Err("a key has no value".into());
        }
        let target = self.top()?;
        match self.graph.get_mut(target) {
            Value::Dict(pairs) => pairs.extend(items.chunks_exact(2).map(|p| (p[0], p[1]))),
            Value::Opaque => {}
            other => return Err(format!("it sets an item of {}", other.kind())),
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> PickleResult<()> {
        let global = constructors::find(module, name)?;
        self.push(Value::Global(global))
    }

    fn call(&mut self) -> PickleResult<()> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let value = constructors::call(&mut self.graph, callee, arguments)?;
        self.push(value)
    }

    /// Runs one opcode; the result is there after STOP.
    fn step(&mut self) -> PickleResult<Option<Id>> {
        let opcode = self.take(1)?[0];
        match opcode {
            b'.' => {
                let result = self.pop()?;
                return Ok(Some(result));
            }
            0x80 => {
                let protocol = self.number(1)?;
                if protocol > 5 {
                    return Err(format!("protocol {protocol} is not known, the newest is 5"));
                }
            }
            0x95 => {
                // A frame is a hint for buffering; its opcodes follow in line.
                let length = self.number(8)?;
                if length > (self.bytes.len() - self.at) as u64 {
                    return Err(format!("a frame of {length} bytes is announced"));
                }
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                // POP takes a mark away if one is on top.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => {
                self.pop_to_mark()?;
            }
            b'2' => self.stack.push(self.top()?),
            _ => {
                let known = self.constant(opcode)?
                    || self.text_or_bytes(opcode)?
                    || self.collection(opcode)?
                    || self.reference(opcode)?;
                if !known {
                    return Err(format!(
                        "opcode {opcode:#04x} is not one that torch.save writes"
                    ));
                }
            }
        }
        Ok(None)
    }

    /// Opcodes of numbers and truth values.
    fn constant(&mut self, opcode: u8) -> PickleResult<bool> {
        let value = match opcode {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'K' => Value::Int(self.number(1)?.into()),
            b'M' => Value::Int(self.number(2)?.into()),
            b'J' => Value::Int((self.number(4)? as u32 as i32).into()),
            0x8a => {
                let bytes = self.counted(1)?;
                Value::Int(long(bytes)?)
            }
            0x8b => {
                let bytes = self.counted(4)?;
                Value::Int(long(bytes)?)
            }
            b'G' => Value::Float(f64::from_bits(self.number(8)?.swap_bytes())),
            _ => return Ok(false),
        };
        self.push(value)?;
        Ok(true)
    }

    /// Opcodes of text and bytes.
    fn text_or_bytes(&mut self, opcode: u8) -> PickleResult<bool> {
        let (width, is_text) = match opcode {
            b'X' => (4, true),
            0x8c => (1, true),
            0x8d => (8, true),
            // Python 2 strings: names of tensors written by it.
            b'U' => (1, true),
            b'T' => (4, true),
            b'C' => (1, false),
            b'B' => (4, false),
            0x8e | 0x96 => (8, false),
            _ => return Ok(false),
        };
        let bytes = self.counted(width)?;
        if is_text {
            self.push_text(bytes)?;
        } else {
            self.push(Value::Bytes(bytes.to_vec()))?;
        }
        Ok(true)
    }

    /// Opcodes of tuples, lists, sets and dictionaries.
    fn collection(&mut self, opcode: u8) -> PickleResult<bool> {
        match opcode {
            b')' => self.push(Value::Tuple(Vec::new()))?,
            0x85 => self.pop_tuple(1)?,
            0x86 => self.pop_tuple(2)?,
            0x87 => self.pop_tuple(3)?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items))?;
            }
            b']' | 0x8f => self.push(Value::List(Vec::new()))?,
            b'l' | 0x91 => {
                let items = self.pop_to_mark()?;
                self.push(Value::List(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Dict(Vec::new()))?;
                self.set_items(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(items)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Opcodes of kept values, names, calls and outside data.
    fn reference(&mut self, opcode: u8) -> PickleResult<bool> {
        match opcode {
            b'q' => {
                let slot = self.number(1)? as u32;
                self.remember(slot)?;
            }
            b'r' => {
                let slot = self.number(4)? as u32;
                self.remember(slot)?;
            }
            0x94 => {
                let slot = u32::try_from(self.memo.len()).map_err(|_| "too many kept values")?;
                self.remember(slot)?;
            }
            b'h' => {
                let slot = self.number(1)? as u32;
                self.recall(slot)?;
            }
            b'j' => {
                let slot = self.number(4)? as u32;
                self.recall(slot)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |id| self.graph.text(id).ok_or("a name is not text");
                let (module, name) = (text(module)?.to_string(), text(name)?.to_string());
                self.global(&module, &name)?;
            }
            b'R' | 0x81 => self.call()?,
            b'b' => {
                let _state = self.pop()?;
                let target = self.top()?;
                constructors::set_state(&self.graph, target)?;
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = constructors::storage(&mut self.graph, id)?;
                self.push(Value::Storage(Box::new(storage)))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// A little-endian two's complement number.
fn long(bytes: &[u8]) -> PickleResult<i128> {
    if bytes.len() > 16 {
        return Err(format!(
            "an integer of {} bytes is longer than any size",
            bytes.len()
        ));
    }
    let sign = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut wide = [if sign { 0xff } else { 0 }; 16];
    wide[..bytes.len()].copy_from_slice(bytes);
    Ok(i128::from_le_bytes(wide))
}
