//! A picture of a simulation: the agents that there were and would have been, and how long tasks waited.

use std::ops::Range;
use std::time::Duration;

use plotters::coord::Shift;
use plotters::prelude::*;
use scheduler::scaling::world::{Curve, Look, Run, percentile};

use super::recording::Recording;

const SIZE: (u32, u32) = (960, 540);
const UPPER_HEIGHT: i32 = 340;
/// More points are not seen.
const POINTS: u32 = 400;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws it, as SVG.
pub(super) fn draw(curve: &Curve, run: &Run, recording: &Recording) -> anyhow::Result<String> {
    let mut picture = String::new();
    {
        let root = SVGBackend::with_string(&mut picture, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (upper, lower) = root.split_vertically(UPPER_HEIGHT);
        let scene =
            Scene { curve, recording, looks: thinned(&run.looks), minutes: 0.0..minutes(recording.end).max(0.1) };
        scene.draw_agents(&upper)?;
        scene.draw_waits(&lower)?;
        root.present()?;
    }
    Ok(picture)
}

struct Scene<'a> {
    curve: &'a Curve,
    recording: &'a Recording,
    looks: Vec<Look>,
    minutes: Range<f64>,
}

impl Scene<'_> {
    fn draw_agents(&self, area: &Area<'_>) -> anyhow::Result<()> {
        let Self { curve, recording, looks, minutes } = self;
        let slots = f64::from(curve.policy.slots);
        let simulated = looks.iter().map(|look| look.present.max(look.wished));
        let most = simulated.chain(recording.agents.iter().map(|(_, agents)| *agents)).max().unwrap_or_default().max(1);
        let mut chart = ChartBuilder::on(area)
            .caption(&curve.name, ("sans-serif", 18))
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(52)
            .build_cartesian_2d(minutes.clone(), 0.0..f64::from(most) * 1.1)?;
        chart.configure_mesh().disable_x_mesh().y_desc("agents").draw()?;
        let busy = looks.iter().map(|look| (self::minutes(look.at), look.busy / slots));
        chart
            .draw_series(AreaSeries::new(busy, 0.0, BLUE.mix(0.25)))?
            .label("slots taken, in agents (simulated)")
            .legend(|(x, y)| Rectangle::new([(x, y - 4), (x + 16, y + 4)], BLUE.mix(0.25).filled()));
        let wished = looks.iter().map(|look| (self::minutes(look.at), f64::from(look.wished)));
        let present = looks.iter().map(|look| (self::minutes(look.at), f64::from(look.present)));
        let lines = [
            ("agents recorded", self.recorded_agents(), GREEN.mix(0.9)),
            ("agents wished for (simulated)", wished.collect::<Vec<_>>(), RED.mix(0.6)),
            ("agents simulated", present.collect(), BLACK.mix(1.0)),
        ];
        for (label, points, color) in lines {
            chart
                .draw_series(LineSeries::new(points, color))?
                .label(label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).draw()?;
        Ok(())
    }

    fn draw_waits(&self, area: &Area<'_>) -> anyhow::Result<()> {
        let Self { curve, looks, minutes, .. } = self;
        let target = curve.policy.target_wait.as_secs_f64();
        let recorded = self.recorded_waits();
        let simulated = looks.iter().map(|look| (self::minutes(look.at), look.wait_p95.as_secs_f64()));
        let simulated: Vec<(f64, f64)> = simulated.collect();
        let longest = recorded.iter().chain(&simulated).map(|(_, wait)| *wait).fold(target, f64::max);
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(52)
            .build_cartesian_2d(minutes.clone(), 0.0..longest * 1.1)?;
        chart.configure_mesh().disable_x_mesh().x_desc("minutes").y_desc("wait p95, s").draw()?;
        chart.draw_series(LineSeries::new([(minutes.start, target), (minutes.end, target)], BLUE.mix(0.5)))?;
        chart.draw_series(LineSeries::new(recorded, GREEN.mix(0.9)))?;
        chart.draw_series(LineSeries::new(simulated, BLACK))?;
        Ok(())
    }

    /// A number holds until the next one.
    fn recorded_agents(&self) -> Vec<(f64, f64)> {
        let Recording { agents, end, .. } = self.recording;
        let ends = agents.iter().skip(1).map(|(at, _)| *at).chain([*end]);
        let step = |((at, agents), until): (&(Duration, u32), Duration)| {
            [(minutes(*at), f64::from(*agents)), (minutes(until), f64::from(*agents))]
        };
        agents.iter().zip(ends).flat_map(step).collect()
    }

    /// How long 95 of 100 waited that started within the same short time.
    fn recorded_waits(&self) -> Vec<(f64, f64)> {
        let part = (self.recording.end / POINTS).max(Duration::from_millis(1));
        let mut waits: Vec<Vec<Duration>> = vec![Vec::new(); POINTS as usize + 1];
        for task in &self.recording.tasks {
            let number = (task.comes + task.waited).div_duration_f64(part) as usize;
            waits[number.min(POINTS as usize)].push(task.waited);
        }
        let parts = (0..).zip(waits).filter(|(_, waits)| !waits.is_empty());
        parts.map(|(number, waits)| (minutes(part * number), percentile(95, waits).as_secs_f64())).collect()
    }
}

fn minutes(moment: Duration) -> f64 {
    moment.as_secs_f64() / 60.0
}

/// Of each few looks the one with the longest wait: that is what must be seen.
fn thinned(looks: &[Look]) -> Vec<Look> {
    let few = looks.len().div_ceil(POINTS as usize).max(1);
    looks.chunks(few).filter_map(|few| few.iter().max_by_key(|look| look.wait_p95)).copied().collect()
}
