// Names of what machines share in a training: a step's parameters, and a task for the gradients of each of its shards.

import type { Course } from "../schedule.ts";

/** Task that computes the gradients of one shard of a step. */
export interface GradientTask {
  readonly course: Course;
  /** Number of the step, from 0. */
  readonly step: number;
  readonly shard: number;
}

/** Names the course of a training: letters and digits. */
export function courseName(course: Course): string {
  if (typeof course === "string") return course;
  return `${course.isRest ? "rest" : "whole"}${course.kind}`;
}

/** Names a step's parameters. */
export function valuesName(course: Course, step: number): string {
  return `values-${courseName(course)}-${step}`;
}

/** Names a task: letters, digits and hyphens. */
export function gradientTaskName({ course, step, shard }: GradientTask): string {
  return `gradients-${courseName(course)}-${step}-${shard}`;
}

/** Numbers that limit those of tasks. */
export interface GradientBounds {
  /** Courses of the training. */
  readonly courses: readonly Course[];
  readonly stepsOf: (course: Course) => number;
  readonly shards: number;
}

/** Finds the task with a name. @throws {RangeError} when there is none in the plan */
export function parseGradientTask(name: string, { courses, stepsOf, shards }: GradientBounds): GradientTask {
  const [, wanted, step, shard] = name.split("-");
  const course = courses.find((one) => courseName(one) === wanted);
  const task = course !== undefined && { course, step: Number(step), shard: Number(shard) };
  // The name is written again, so that no other spelling of a number is accepted.
  const isKnown = task && gradientTaskName(task) === name;
  if (isKnown && isBelow(task.step, stepsOf(task.course)) && isBelow(task.shard, shards)) return task;
  throw new RangeError("Expected the name of a task of the plan, got another");
}

function isBelow(value: number, end: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < end;
}
