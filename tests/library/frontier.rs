//! The smallest sum of losses within a budget.

use proptest::prelude::*;
use welore_burn::plan::{Point, descend, least_loss, point_at};

/// Points of increasing cost; losses may rise, as measured ones do now and then.
fn curve() -> impl Strategy<Value = Vec<Point>> {
    prop::collection::vec((1u64..50, 0.0..1.0), 1..7).prop_map(|steps| {
        let mut cost = 0;
        let point = |(more, loss)| {
            cost += more;
            Point { cost, loss }
        };
        steps.into_iter().map(point).collect()
    })
}

fn costs(curves: &[Vec<Point>], chosen: &[usize]) -> u64 {
    curves.iter().zip(chosen).map(|(points, at)| points[*at].cost).sum()
}

fn losses(curves: &[Vec<Point>], chosen: &[usize]) -> f64 {
    curves.iter().zip(chosen).map(|(points, at)| points[*at].loss).sum()
}

/// The smallest loss that any choice within the budget has, by trying all of them.
fn best(curves: &[Vec<Point>], budget: u64) -> f64 {
    let Some((points, rest)) = curves.split_first() else { return 0.0 };
    let affordable = points.iter().filter(|point| point.cost <= budget);
    let whole = affordable.map(|point| point.loss + best(rest, budget - point.cost));
    whole.fold(f64::INFINITY, f64::min)
}

proptest! {
    #[test]
    fn a_budget_is_never_exceeded_and_what_is_left_buys_nothing(
        curves in prop::collection::vec(curve(), 1..6),
        share in 0.0..1.2,
    ) {
        let least: u64 = curves.iter().map(|points| points[0].cost).sum();
        let most: u64 = curves.iter().map(|points| points.last().unwrap().cost).sum();
        let budget = least + ((most - least) as f64 * share) as u64;
        let chosen = least_loss(&curves, budget, |a, b| a.cmp(&b)).unwrap();
        let spent = costs(&curves, &chosen);
        prop_assert!(spent <= budget);
        for (points, at) in curves.iter().zip(&chosen) {
            let now = points[*at];
            for other in points {
                let better = other.loss < now.loss;
                prop_assert!(!better || spent - now.cost + other.cost > budget);
                // Nothing is paid for a loss that a cheaper point has too.
                prop_assert!(other.cost >= now.cost || other.loss >= now.loss);
            }
        }
    }

    #[test]
    fn no_choice_is_better_by_more_than_the_largest_step(
        curves in prop::collection::vec(curve(), 1..5),
        share in 0.0..1.0,
    ) {
        let least: u64 = curves.iter().map(|points| points[0].cost).sum();
        let most: u64 = curves.iter().map(|points| points.last().unwrap().cost).sum();
        let budget = least + ((most - least) as f64 * share) as u64;
        let chosen = least_loss(&curves, budget, |a, b| a.cmp(&b)).unwrap();
        let range = |points: &Vec<Point>| {
            let of = points.iter().map(|point| point.loss);
            of.clone().fold(f64::NEG_INFINITY, f64::max) - of.fold(f64::INFINITY, f64::min)
        };
        let largest = curves.iter().map(range).fold(0.0, f64::max);
        prop_assert!(losses(&curves, &chosen) <= best(&curves, budget) + largest + 1e-12);
    }
}

#[test]
fn a_budget_below_the_cheapest_points_is_refused_with_what_they_cost() {
    let curve = vec![Point { cost: 3, loss: 1.0 }, Point { cost: 5, loss: 0.0 }];
    assert_eq!(least_loss(&[curve.clone(), curve], 5, |a, b| a.cmp(&b)), Err(6));
}

#[test]
fn of_equal_steps_the_first_in_order_is_taken() {
    let curve = vec![Point { cost: 1, loss: 1.0 }, Point { cost: 2, loss: 0.0 }];
    let curves = [curve.clone(), curve];
    assert_eq!(least_loss(&curves, 3, |a, b| a.cmp(&b)).unwrap(), [1, 0]);
    assert_eq!(least_loss(&curves, 3, |a, b| b.cmp(&a)).unwrap(), [0, 1]);
}

#[test]
fn the_price_is_that_of_the_step_at_which_the_budget_ended() {
    // Steps that save 4, 2 and 1 for each unit.
    let steep = vec![Point { cost: 1, loss: 9.0 }, Point { cost: 2, loss: 5.0 }];
    let flat = vec![
        Point { cost: 1, loss: 9.0 },
        Point { cost: 3, loss: 5.0 },
        Point { cost: 5, loss: 3.0 },
    ];
    let curves = [steep, flat.clone()];
    for (budget, price, at) in [(2, 4.0, 0), (3, 2.0, 0), (5, 1.0, 1), (7, 0.0, 2), (99, 0.0, 2)] {
        let found = descend(&curves, budget, |a, b| a.cmp(&b)).unwrap();
        assert_eq!(found.price, price, "with {budget}");
        assert_eq!(found.chosen[1], at, "with {budget}");
        // What the curve would be given alone, at that price.
        assert_eq!(point_at(&flat, price), at, "at {price}");
    }
}

#[test]
fn at_no_price_nothing_is_paid_for_nothing() {
    let curve = [(1, 1.0), (2, 0.25), (3, 0.25), (4, 0.5)].map(|(cost, loss)| Point { cost, loss });
    assert_eq!(point_at(&curve, 0.0), 1);
    assert_eq!(point_at(&curve, 1.0), 0);
}
