//! The smallest sum of losses within a budget.

/// What something costs in one of its forms, and what it loses in that form.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// The cost, in the unit of the budget.
    pub cost: u64,
    /// The loss, finite.
    pub loss: f64,
}

/// One point of each curve, and where the budget ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Descent {
    /// The point of each curve, by its number.
    pub chosen: Vec<usize>,
    /// What the first step that did not fit would have saved for each unit of its cost; 0 if all
    /// steps fitted.
    pub price: f64,
}

/// The points that [`descend`] chooses.
///
/// # Errors
///
/// The lowest cost of all curves together, if that is above the budget.
///
/// # Panics
///
/// If a curve has no points, or costs do not increase.
pub fn least_loss(
    curves: &[Vec<Point>],
    budget: u64,
    order: impl Fn(usize, usize) -> std::cmp::Ordering,
) -> Result<Vec<usize>, u64> {
    descend(curves, budget, order).map(|descent| descent.chosen)
}

/// Chooses one point of each curve, so that the sum of the losses is as small as the budget allows
/// (a Lagrangian, exact up to the steps that do not fit): down the lower convex hulls of all curves,
/// the steepest step first. A step that does not fit is skipped, with all later ones of its curve,
/// and the rest of the budget goes to parts of such steps. So the budget is never exceeded, and
/// what is left of it is too little for any point that would lose less.
///
/// Each curve has its points in order of increasing cost. A point that loses more than a cheaper one
/// is not chosen. Of equally steep steps, that of the earlier curve in `order` comes first; `order`
/// compares two curves by their indices.
///
/// # Errors
///
/// The lowest cost of all curves together, if that is above the budget.
///
/// # Panics
///
/// If a curve has no points, or costs do not increase.
pub fn descend(
    curves: &[Vec<Point>],
    budget: u64,
    order: impl Fn(usize, usize) -> std::cmp::Ordering,
) -> Result<Descent, u64> {
    let hulls: Vec<Vec<usize>> = curves.iter().map(|points| lower_hull(points)).collect();
    let mut at: Vec<usize> = hulls.iter().map(|hull| hull[0]).collect();
    let mut spent: u64 = curves.iter().map(|points| points[0].cost).sum();
    if spent > budget {
        return Err(spent);
    }
    let mut steps: Vec<(f64, usize, usize)> = Vec::new();
    for (index, (points, hull)) in curves.iter().zip(&hulls).enumerate() {
        let pairs = hull.windows(2).enumerate();
        steps.extend(pairs.map(|(step, pair)| (slope(points, pair[0], pair[1]), index, step)));
    }
    steps.sort_by(|a, b| {
        let ties = || order(a.1, b.1).then(a.2.cmp(&b.2));
        b.0.total_cmp(&a.0).then_with(ties)
    });
    // The curves with a step that did not fit, in the order of these steps.
    let mut stopped: Vec<usize> = Vec::new();
    let mut is_stopped = vec![false; curves.len()];
    let mut price = None;
    for (slope, index, step) in steps {
        if is_stopped[index] {
            continue;
        }
        let (from, to) = (hulls[index][step], hulls[index][step + 1]);
        let more = curves[index][to].cost - curves[index][from].cost;
        if spent + more > budget {
            // Other curves may have smaller steps.
            price.get_or_insert(slope);
            is_stopped[index] = true;
            stopped.push(index);
            continue;
        }
        spent += more;
        at[index] = to;
    }
    for index in stopped {
        let (points, from) = (&curves[index], at[index]);
        let most = budget - spent + points[from].cost;
        let useful = useful(points).rev();
        let to = useful.into_iter().find(|to| points[*to].cost <= most).unwrap_or(from);
        spent += points[to].cost - points[from].cost;
        at[index] = to;
    }
    Ok(Descent { chosen: at, price: price.unwrap_or(0.0) })
}

/// The point of a curve at a price: down its lower convex hull, as long as a step saves more than
/// `price` for each unit of its cost.
///
/// # Panics
///
/// If the curve has no points, or costs do not increase.
pub fn point_at(points: &[Point], price: f64) -> usize {
    let hull = lower_hull(points);
    let dear = |pair: &&[usize]| slope(points, pair[0], pair[1]) > price;
    let steps = hull.windows(2).take_while(dear).count();
    hull[steps]
}

/// The points that lose no more than any cheaper one.
fn useful(points: &[Point]) -> impl DoubleEndedIterator<Item = usize> + use<> {
    let mut least = f64::INFINITY;
    let mut kept = Vec::with_capacity(points.len());
    for (number, point) in points.iter().enumerate() {
        if point.loss <= least {
            least = point.loss;
            kept.push(number);
        }
    }
    kept.into_iter()
}

/// The points on the lower convex hull, including the first and the last useful one.
pub fn lower_hull(points: &[Point]) -> Vec<usize> {
    assert!(!points.is_empty(), "a curve has points");
    assert!(points.windows(2).all(|pair| pair[0].cost < pair[1].cost), "costs increase");
    let mut hull: Vec<usize> = Vec::new();
    for number in useful(points) {
        while let [.., a, b] = hull[..] {
            // The middle point is not below the line, so no price makes it the best.
            if slope(points, a, b) <= slope(points, b, number) {
                hull.pop();
            } else {
                break;
            }
        }
        hull.push(number);
    }
    hull
}

/// What a step saves for each unit of its cost.
fn slope(points: &[Point], from: usize, to: usize) -> f64 {
    let (from, to) = (points[from], points[to]);
    (from.loss - to.loss) / (to.cost - from.cost) as f64
}
