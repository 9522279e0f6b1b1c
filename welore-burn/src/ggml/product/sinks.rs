//! Where the entries of blocks go, 32 at a time: into memory, into a product with a row of numbers,
//! or, times a number, into sums.

use super::machine::{Machine, Part};

/// What takes the entries of rows. Those from number `32 at` of a row on are numbers times scales, 16
/// with one scale each; some types add a shift.
pub(super) trait Sink<M: Machine> {
    /// `scale · numbers`.
    fn scaled(&mut self, machine: M, at: usize, numbers: [M::Bytes; 2], scales: [f32; 2]);

    /// `scale · numbers + shift`.
    fn shifted(
        &mut self,
        machine: M,
        at: usize,
        numbers: [M::Bytes; 2],
        scales: [f32; 2],
        shifts: [f32; 2],
    );

    /// Nothing more comes of a row.
    fn end_row(&mut self, machine: M);
}

/// The halves of 32 numbers.
#[inline(always)]
fn halves_mut(part: &mut [f32; 32]) -> &mut [[f32; 16]] {
    part.as_chunks_mut::<16>().0
}

/// Entries of one row that are written down, rounded as llama.cpp rounds them.
pub(super) struct Written<'a>(pub &'a mut [[f32; 32]]);

impl<M: Machine> Sink<M> for Written<'_> {
    #[inline(always)]
    fn scaled(&mut self, machine: M, at: usize, numbers: [M::Bytes; 2], scales: [f32; 2]) {
        let out = halves_mut(&mut self.0[at]);
        machine.scaled(numbers[0], scales[0], &mut out[0]);
        machine.scaled(numbers[1], scales[1], &mut out[1]);
    }

    #[inline(always)]
    fn shifted(
        &mut self,
        machine: M,
        at: usize,
        numbers: [M::Bytes; 2],
        scales: [f32; 2],
        shifts: [f32; 2],
    ) {
        let out = halves_mut(&mut self.0[at]);
        machine.shifted(numbers[0], scales[0], shifts[0], &mut out[0]);
        machine.shifted(numbers[1], scales[1], shifts[1], &mut out[1]);
    }

    #[inline(always)]
    fn end_row(&mut self, _: M) {}
}

/// Rows that are multiplied by a row of numbers, each for itself. Scales and shifts are multiplied
/// last.
pub(super) struct Dot<'a, M: Machine> {
    parts: &'a [Part],
    sums: [M::Sums; 2],
    shifts: f32,
    /// The products of the rows that are still to come.
    out: &'a mut [f32],
}

impl<'a, M: Machine> Dot<'a, M> {
    /// Products with these numbers.
    #[inline(always)]
    pub fn new(machine: M, parts: &'a [Part], out: &'a mut [f32]) -> Self {
        Self { parts, sums: [machine.no_sums(); 2], shifts: 0.0, out }
    }
}

impl<M: Machine> Sink<M> for Dot<'_, M> {
    #[inline(always)]
    fn scaled(&mut self, machine: M, at: usize, numbers: [M::Bytes; 2], scales: [f32; 2]) {
        let part = &self.parts[at];
        let inputs = part.inputs.as_chunks::<16>().0;
        let scales = [part.scale * scales[0], part.scale * scales[1]];
        self.sums[0] = machine.add_products(self.sums[0], numbers[0], scales[0], &inputs[0]);
        self.sums[1] = machine.add_products(self.sums[1], numbers[1], scales[1], &inputs[1]);
    }

    #[inline(always)]
    fn shifted(
        &mut self,
        machine: M,
        at: usize,
        numbers: [M::Bytes; 2],
        scales: [f32; 2],
        shifts: [f32; 2],
    ) {
        let of_inputs = self.parts[at].sums;
        self.shifts += shifts[0] * of_inputs[0] + shifts[1] * of_inputs[1];
        self.scaled(machine, at, numbers, scales);
    }

    #[inline(always)]
    fn end_row(&mut self, machine: M) {
        if let Some(out) = self.out.split_off_first_mut() {
            *out = machine.total(self.sums) + self.shifts;
        }
        (self.sums, self.shifts) = ([machine.no_sums(); 2], 0.0);
    }
}

/// Entries that are added to sums of their own, times a number.
pub(super) struct Added<'a> {
    pub sums: &'a mut [[f32; 32]],
    pub factor: f32,
}

impl<M: Machine> Sink<M> for Added<'_> {
    #[inline(always)]
    fn scaled(&mut self, machine: M, at: usize, numbers: [M::Bytes; 2], scales: [f32; 2]) {
        let sums = halves_mut(&mut self.sums[at]);
        machine.add_scaled(numbers[0], self.factor * scales[0], &mut sums[0]);
        machine.add_scaled(numbers[1], self.factor * scales[1], &mut sums[1]);
    }

    #[inline(always)]
    fn shifted(
        &mut self,
        machine: M,
        at: usize,
        numbers: [M::Bytes; 2],
        scales: [f32; 2],
        shifts: [f32; 2],
    ) {
        let sums = halves_mut(&mut self.sums[at]);
        let shifts = [self.factor * shifts[0], self.factor * shifts[1]];
        machine.add_shifted(numbers[0], self.factor * scales[0], shifts[0], &mut sums[0]);
        machine.add_shifted(numbers[1], self.factor * scales[1], shifts[1], &mut sums[1]);
    }

    #[inline(always)]
    fn end_row(&mut self, _: M) {}
}
