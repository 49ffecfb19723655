// A layer that predicts a further token, in the checkpoint of Qwen 3.5's fixture.

import { join } from "node:path";
import { SafetensorsFile, writeSafetensors } from "../../packages/model/src/safetensors/safetensors-file.ts";
import { fixture } from "./fixtures.ts";

/** Adds the tensors of `fixtures/next-layer` to a folder's model. @param flattened - one of them that loses its shape */
export async function addNextLayer(folder: string, flattened?: string): Promise<void> {
  const path = join(folder, "model.safetensors");
  const places = [path, join(fixture("next-layer"), "mtp.safetensors")];
  const files = await Promise.all(places.map((place) => SafetensorsFile.open(place)));
  const tensors = await Promise.all(
    files.flatMap((file) =>
      file.names.map(async (name) => {
        const { type, shape } = file.info(name);
        const bytes = await file.readBytes(name);
        const own = name === flattened ? [1, bytes.length / 4] : shape;
        return { name, type: type as "F32", shape: own, bytes: async () => bytes };
      }),
    ),
  );
  for (const file of files) await file.close();
  await writeSafetensors(path, tensors);
}
