//! Two ways to record which rows of a matrix are pivots: files list them; a layer needs to know
//! where each of its outputs comes from.

use super::error::FormError;

/// The position of each of `d_output` outputs in the list of pivots followed by the others in
/// rising order: the order of a [`LowRank`](super::LowRank) with these pivots. `None` if they are
/// not distinct outputs.
pub fn order_of_pivots(pivots: &[i32], d_output: usize) -> Option<Vec<i32>> {
    let mut order = vec![-1; d_output];
    for (place, pivot) in pivots.iter().enumerate() {
        let free = order.get_mut(usize::try_from(*pivot).ok()?)?;
        if *free >= 0 {
            return None;
        }
        *free = place as i32;
    }
    let others = order.iter_mut().filter(|place| **place < 0);
    for (next, place) in (pivots.len() as i32..).zip(others) {
        *place = next;
    }
    Some(order)
}

/// [`order_of_pivots`] of pivots that come from a file.
///
/// # Errors
///
/// [`FormError::Pivots`] if they are not distinct outputs.
pub(super) fn checked_order(pivots: &[i32], d_output: usize) -> Result<Vec<i32>, FormError> {
    let wrong = || FormError::Pivots { rank: pivots.len(), rows: d_output };
    order_of_pivots(pivots, d_output).ok_or_else(wrong)
}

/// The inverse of [`order_of_pivots`].
pub fn pivots_of_order(order: &[i32], rank: usize) -> Vec<i32> {
    let mut pivots = vec![0; rank];
    for (output, place) in order.iter().enumerate() {
        if let Some(pivot) = usize::try_from(*place).ok().and_then(|place| pivots.get_mut(place)) {
            *pivot = output as i32;
        }
    }
    pivots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_pivots_say_the_same() {
        let order = order_of_pivots(&[4, 0, 2], 6).unwrap();
        // Outputs 0, 2 and 4 are pivots 1, 2 and 0; outputs 1, 3 and 5 come after.
        assert_eq!(order, [1, 3, 2, 4, 0, 5]);
        assert_eq!(pivots_of_order(&order, 3), [4, 0, 2]);
        for impossible in [&[6][..], &[-1], &[1, 1], &[0; 7]] {
            assert_eq!(order_of_pivots(impossible, 6), None);
        }
    }
}
