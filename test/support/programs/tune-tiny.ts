// Tunes a tiny model for a few steps and sends a message for each. Arguments: student, teacher, the output folder, and
// `resume` to resume.

import { openModel } from "@readme-moe/model";
import { tune } from "@readme-moe/refactor";
import { pocketTexts } from "../pocket-texts.ts";
import { TINY_TUNING } from "../tiny-tuning.ts";

const [studentPath = "", teacherPath = "", out = "", resume] = process.argv.slice(2);
const [student, teacher] = [await openModel(studentPath), await openModel(teacherPath)];
await tune({ student, teacher }, await pocketTexts(["book", "github"]), out, {
  ...TINY_TUNING,
  source: "student",
  teacherSource: "teacher",
  threads: 1,
  checkpointMs: 0,
  resume: resume === "resume",
  onEstimate: () => process.send?.("estimate"),
  onProgress: ({ step }) => process.send?.(`step ${step}`),
});
await student.close();
await teacher.close();
process.disconnect();
