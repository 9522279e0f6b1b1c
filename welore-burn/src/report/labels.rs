//! Where labels of a picture go.

/// A rectangle, in pixels from the upper left corner.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Area {
    /// A square around a point.
    fn around([x, y]: [f64; 2], half: f64) -> Self {
        Self { left: x - half, top: y - half, right: x + half, bottom: y + half }
    }

    fn meets(&self, other: &Self) -> bool {
        self.left < other.right
            && self.right > other.left
            && self.top < other.bottom
            && self.bottom > other.top
    }

    fn holds(&self, other: &Self) -> bool {
        self.left <= other.left
            && self.top <= other.top
            && self.right >= other.right
            && self.bottom >= other.bottom
    }
}

/// Pixels from a baseline to the top of its letters.
const ASCENT: f64 = 10.0;

/// Pixels from a baseline to the bottom of its letters.
const DESCENT: f64 = 3.0;

/// Half the side of a marker, with some room.
const MARKER: f64 = 7.0;

/// What is on a picture already, so that labels are put beside it.
#[derive(Debug)]
pub(super) struct Labels {
    /// Where labels may be.
    frame: Area,
    /// Markers and labels.
    taken: Vec<Area>,
    /// Lines, which labels avoid if they can.
    lines: Vec<Area>,
}

impl Labels {
    /// A frame with nothing in it.
    pub(super) fn new(frame: Area) -> Self {
        Self { frame, taken: Vec::new(), lines: Vec::new() }
    }

    /// Adds a marker.
    pub(super) fn marker(&mut self, at: [f64; 2]) {
        self.taken.push(Area::around(at, MARKER));
    }

    /// Adds a line through points.
    pub(super) fn line(&mut self, points: &[[f64; 2]]) {
        const STEP: f64 = 4.0;
        for pair in points.windows(2) {
            let [[x, y], [to_x, to_y]] = [pair[0], pair[1]];
            let steps = ((to_x - x).hypot(to_y - y) / STEP).ceil().max(1.0);
            for step in 0..=steps as usize {
                let share = step as f64 / steps;
                let at = [x + share * (to_x - x), y + share * (to_y - y)];
                self.lines.push(Area::around(at, 1.5));
            }
        }
    }

    /// Takes a place for a label of this width beside a marker: its left end and its baseline. `None`
    /// where everything is taken.
    pub(super) fn place(&mut self, [x, y]: [f64; 2], width: f64) -> Option<[f64; 2]> {
        let (beside, middle) = (MARKER + 3.0, width / 2.0);
        let places = [
            [x + beside, y + 4.0],
            [x - beside - width, y + 4.0],
            [x - middle, y - beside - 1.0],
            [x - middle, y + beside + ASCENT],
            [x + 5.0, y - beside],
            [x + 5.0, y + beside + ASCENT],
            [x - 5.0 - width, y - beside],
            [x - 5.0 - width, y + beside + ASCENT],
        ];
        let area = |[left, base]: [f64; 2]| Area {
            left,
            top: base - ASCENT,
            right: left + width,
            bottom: base + DESCENT,
        };
        let is_free = |place: &[f64; 2]| {
            let area = area(*place);
            self.frame.holds(&area) && !self.taken.iter().any(|other| other.meets(&area))
        };
        let is_clear = |place: &[f64; 2]| {
            let area = area(*place);
            is_free(place) && !self.lines.iter().any(|line| line.meets(&area))
        };
        let clear = places.iter().find(|place| is_clear(place));
        let found = *clear.or_else(|| places.iter().find(|place| is_free(place)))?;
        self.taken.push(area(found));
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Labels {
        Labels::new(Area { left: 0.0, top: 0.0, right: 200.0, bottom: 100.0 })
    }

    #[test]
    fn a_label_is_beside_its_marker_and_on_nothing_else() {
        let mut labels = empty();
        let at = [100.0, 50.0];
        labels.marker(at);
        assert_eq!(labels.place(at, 40.0), Some([110.0, 54.0]));
        // The right is taken, the left is free.
        assert_eq!(labels.place(at, 40.0), Some([50.0, 54.0]));
        let mut labels = empty();
        labels.marker(at);
        labels.line(&[at, [200.0, 50.0]]);
        assert_eq!(labels.place(at, 40.0), Some([50.0, 54.0]), "not on the line");
    }

    #[test]
    fn labels_stay_in_the_frame() {
        let mut labels = empty();
        labels.marker([195.0, 50.0]);
        let [left, _] = labels.place([195.0, 50.0], 40.0).unwrap();
        assert!(left + 40.0 <= 200.0, "{left}");
        assert_eq!(labels.place([195.0, 50.0], 300.0), None);
    }
}
