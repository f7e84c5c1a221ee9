//! A picture of each curve: what it takes, what it gets, and how long tasks wait.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;
use scheduler::scaling::world::{Actuator, Curve, Look, Run, World};

use crate::{curve, secs};

const SIZE: (u32, u32) = (960, 540);
const UPPER_HEIGHT: i32 = 340;
/// More points are not seen.
const POINTS: usize = 800;

/// Draws all of them into `docs/curves`.
#[test]
#[ignore = "writes into docs/curves"]
fn pictures() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/curves");
    std::fs::create_dir_all(&directory).expect("the directory can be made");
    let works = Actuator::Works(secs(5));
    let all = [
        (curve::step(secs(302), 1), works),
        (curve::steady(secs(4), 1), works),
        (curve::ramp(1), works),
        (curve::day(1), works),
        (curve::spike(1), works),
        (curve::burst(1), works),
        (curve::seldom(1), works),
        (named("slow", curve::too_much(1)), Actuator::Works(secs(40))),
        (named("refuses-half", curve::too_much(1)), Actuator::RefusesHalf),
        (named("loses-half", curve::too_much(1)), Actuator::LosesHalf),
        (named("lies", curve::too_much(1)), Actuator::Lies),
        (named("starts-twice", curve::too_much(1)), Actuator::StartsTwice),
    ];
    for (curve, actuator) in all {
        let run = World::new(&curve, actuator, 1).run();
        let picture = draw(&curve, &run).expect("it can be drawn");
        std::fs::write(directory.join(format!("{}.svg", curve.name)), picture).expect("it can be written");
    }
}

#[test]
fn a_picture_shows_load_agents_and_waits() {
    let curve = curve::seldom(1);

    let picture = draw(&curve, &World::new(&curve, Actuator::Works(secs(5)), 1).run()).unwrap();

    assert!(picture.starts_with("<svg") && picture.contains("seldom"), "{picture}");
    assert!(picture.matches("<polyline").count() >= 4, "{picture}");
}

fn named(name: &str, curve: Curve) -> Curve {
    Curve { name: name.to_owned(), ..curve }
}

fn draw(curve: &Curve, run: &Run) -> Result<String, Box<dyn Error>> {
    let mut picture = String::new();
    {
        let root = SVGBackend::with_string(&mut picture, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (upper, lower) = root.split_vertically(UPPER_HEIGHT);
        let looks = thinned(&run.looks);
        let hours = 0.0..curve.end.as_secs_f64() / 3600.0;
        draw_agents(&upper, curve, &looks, hours.clone())?;
        draw_waits(&lower, curve, &looks, hours)?;
        root.present()?;
    }
    Ok(picture)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_agents(area: &Area<'_>, curve: &Curve, looks: &[Look], hours: Range<f64>) -> Result<(), Box<dyn Error>> {
    let slots = f64::from(curve.policy.slots);
    let most = looks.iter().map(|look| f64::from(look.present.max(look.wished))).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(&curve.name, ("sans-serif", 18))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(52)
        .build_cartesian_2d(hours, 0.0..most * 1.1)?;
    chart.configure_mesh().disable_x_mesh().y_desc("agents").draw()?;
    chart
        .draw_series(AreaSeries::new(looks.iter().map(|look| (hour(look), look.busy / slots)), 0.0, BLUE.mix(0.25)))?
        .label("slots taken, in agents")
        .legend(|(x, y)| Rectangle::new([(x, y - 4), (x + 16, y + 4)], BLUE.mix(0.25).filled()));
    chart
        .draw_series(LineSeries::new(looks.iter().map(|look| (hour(look), f64::from(look.wished))), RED.mix(0.6)))?
        .label("agents wished for")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], RED.mix(0.6)));
    chart
        .draw_series(LineSeries::new(looks.iter().map(|look| (hour(look), f64::from(look.present))), BLACK))?
        .label("agents")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK));
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).draw()?;
    Ok(())
}

fn draw_waits(area: &Area<'_>, curve: &Curve, looks: &[Look], hours: Range<f64>) -> Result<(), Box<dyn Error>> {
    let target = curve.policy.target_wait.as_secs_f64();
    let longest = looks.iter().map(|look| look.wait_p95.as_secs_f64()).fold(target, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(hours.clone(), 0.0..longest * 1.1)?;
    chart.configure_mesh().disable_x_mesh().x_desc("hours").y_desc("wait p95, s").draw()?;
    chart.draw_series(LineSeries::new([(hours.start, target), (hours.end, target)], GREEN))?;
    chart.draw_series(LineSeries::new(looks.iter().map(|look| (hour(look), look.wait_p95.as_secs_f64())), BLACK))?;
    Ok(())
}

fn hour(look: &Look) -> f64 {
    look.at.as_secs_f64() / 3600.0
}

/// Of each few looks the one with the longest wait: that is what must be seen.
fn thinned(looks: &[Look]) -> Vec<Look> {
    let few = looks.len().div_ceil(POINTS).max(1);
    looks.chunks(few).filter_map(|few| few.iter().max_by_key(|look| look.wait_p95)).copied().collect()
}
