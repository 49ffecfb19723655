// A tool and a form of answers that tests of several APIs ask for.

/** Makes the schema of an object that has the given properties and no others, so that an answer ends. */
function closedObject<Properties extends Record<string, object>>(properties: Properties) {
  const required = Object.keys(properties);
  return { type: "object" as const, properties, required, additionalProperties: false as const };
}

/** A tool without the name that each API has for its parameters. */
export const LIGHT = { name: "light", description: "Switches the light" } as const;
export const LIGHT_PARAMETERS = closedObject({ on: { type: "boolean" } });
export const CITY = closedObject({ city: { enum: ["Rome", "Oslo"] } });
