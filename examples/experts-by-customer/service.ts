// The service: one model, an expert for each customer, chosen by the customer's key, or by the text for the office.

import { readMe, type ServedModels } from "@readme-moe/express";
import express, { type Express } from "express";
import { CUSTOMERS, OFFICE_KEY } from "./customers.ts";

const expertOf = (name = ""): string | undefined => CUSTOMERS[name]?.expert;

/** @param models - the model `base`, with the customers' experts */
export function customerService(models: ServedModels): Express {
  const keys = Object.fromEntries(Object.entries(CUSTOMERS).map(([name, { key }]) => [name, key]));
  return express().use(
    readMe({
      models,
      keys: { ...keys, office: OFFICE_KEY },
      experts: {
        // For a customer, the experts of others do not exist.
        permit: ({ key, expert }) => key === "office" || expert === expertOf(key),
      },
      onRequest: (body, { key }) => {
        const expert = expertOf(key);
        // The office's requests go to the model's router, which looks at the text.
        if (expert === undefined || body.model?.includes(":")) return body;
        return { ...body, model: `base:${expert}`, read_me: { ...body.read_me, expert: undefined } };
      },
    }),
  );
}
