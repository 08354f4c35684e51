//! Tensor cores: `ldmatrix` and `mma.sync`.
//!
//! tf32 factors drop the 13 lowest bits, as hardware does; sums are those of [`crate::lanes::tensor`].

use super::block::Worker;
use super::stamp::Kind;
use super::step::Next;
use crate::decode::kernel::{Address, Factor, Inst, MatrixProduct, Reg};
use crate::lanes::float::bits32;
use crate::lanes::half::{from_bf16, from_f16};
use crate::lanes::tensor::Product;
use crate::violation::ViolationKind;

impl<'a> Worker<'a> {
    /// Whether all 32 lanes are here, as these instructions demand; none if they may still come.
    fn whole_warp(&mut self, w: usize, inst: &'a Inst, active: u32) -> Option<Next> {
        if active == u32::MAX {
            return None;
        }
        if active != self.warps[w].live {
            return Some(Next::Park(active));
        }
        let what = format!("it needs all 32 lanes of the warp, and {active:08x} are there");
        self.stop(ViolationKind::MissingLanes, w, 0, inst, what);
        Some(Next::Stop)
    }

    /// `ldmatrix`: lanes 8m … 8m+7 hold the addresses of the rows of matrix m.
    #[allow(clippy::too_many_arguments)] // the parts of one decoded instruction
    pub fn matrix_load(
        &mut self,
        w: usize,
        pc: usize,
        inst: &'a Inst,
        active: u32,
        count: usize,
        transposed: bool,
        out: &[Reg; 4],
        address: Address,
    ) -> Next {
        if let Some(next) = self.whole_warp(w, inst, active) {
            return next;
        }
        let addresses = self.addresses(w, &address);
        let mut rows = [[0u32; 4]; 32];
        let reading = if count == 4 {
            u32::MAX
        } else {
            (1 << (8 * count)) - 1
        };
        self.shared(
            w,
            pc,
            inst,
            reading,
            &addresses,
            16,
            Kind::Read,
            |words, lane, offset| {
                rows[lane].copy_from_slice(&words[offset / 4..offset / 4 + 4]);
            },
        );
        for matrix in 0..count {
            let element = |row: usize, column: usize| {
                rows[8 * matrix + row][column / 2] >> (16 * (column % 2)) & 0xffff
            };
            let values = std::array::from_fn(|lane| {
                let (row, column) = (lane / 4, 2 * (lane % 4));
                if transposed {
                    element(column, row) | element(column + 1, row) << 16
                } else {
                    element(row, column) | element(row, column + 1) << 16
                }
            });
            self.warps[w]
                .registers
                .set_word(out[matrix], u32::MAX, &values);
        }
        Next::Forward
    }

    /// `mma.sync`: D = A·B + C for a 16×k A, a k×8 B.
    pub fn matrix_product(
        &mut self,
        w: usize,
        inst: &'a Inst,
        active: u32,
        product: &MatrixProduct,
    ) -> Next {
        if let Some(next) = self.whole_warp(w, inst, active) {
            return next;
        }
        let registers = &mut self.warps[w].registers;
        let mut operands = Product {
            depth: product.depth,
            a: [[0.0; 16]; 16],
            b: [[0.0; 8]; 16],
            c: [[0.0; 8]; 16],
        };
        let (in_a, in_b) = product.fragments();
        // How many neighbouring elements a register holds, and how far apart its columns start.
        let (packed, step) = if product.factor == Factor::TF32 {
            (1, 4)
        } else {
            (2, 8)
        };
        let value = |word: u32, part: usize| match product.factor {
            Factor::TF32 => f32::from_bits(word & 0xffff_e000),
            Factor::F16 => from_f16(word >> (16 * part) & 0xffff),
            Factor::BF16 => from_bf16(word >> (16 * part) & 0xffff),
        };
        for (index, reg) in product.a[..in_a].iter().enumerate() {
            let row = registers.word(*reg);
            for lane in 0..32 {
                for part in 0..packed {
                    operands.a[lane / 4 + 8 * (index % 2)]
                        [packed * (lane % 4) + part + step * (index / 2)] = value(row[lane], part);
                }
            }
        }
        for (index, reg) in product.b[..in_b].iter().enumerate() {
            let row = registers.word(*reg);
            for lane in 0..32 {
                for part in 0..packed {
                    operands.b[packed * (lane % 4) + part + step * index][lane / 4] =
                        value(row[lane], part);
                }
            }
        }
        for (index, reg) in product.c.iter().enumerate() {
            let row = registers.word(*reg);
            for lane in 0..32 {
                let sums = &mut operands.c[lane / 4 + 8 * (index / 2)];
                sums[2 * (lane % 4) + index % 2] = f32::from_bits(row[lane]);
            }
        }
        let cores = self.launch.tensor_cores;
        cores.multiply(&mut operands, product.factor);
        for (index, reg) in product.out.iter().enumerate() {
            let mut values = [0; 32];
            for lane in 0..32 {
                let sums = &operands.c[lane / 4 + 8 * (index / 2)];
                values[lane] = bits32(sums[2 * (lane % 4) + index % 2]);
            }
            registers.set_word(*reg, u32::MAX, &values);
        }
        Next::Forward
    }
}
