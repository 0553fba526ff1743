"""The prompts that sprite's text is written from: a grammar of everyday subjects, people and forms.

Main entry: `draw`, which gives prompt number i of a seed. Everything in here is our own: no question, no
opening and no list comes from a collection.

The model is small. What it says in one or two sentences makes sense more often than not, where its subject
and its first words are given; left alone for longer, it wanders. So a story is a chain: each sentence is
begun here and ended by the model. Answers are asked for after a greeting: then it answers as neighbours do.
"""

import random
import re
from dataclasses import dataclass

USER, ANSWER, NEXT = (
    "<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|>\n<|im_start|>user\n",
)
GREETING = f"{USER}Hi{ANSWER}Hello! How can I help you today?{NEXT}"


@dataclass(frozen=True)
class Prompt:
    """What the model goes on from.

    Attributes:
        form: Name of the kind of text it asks for.
        shared: What the model reads first, control tokens included; the same for many prompts.
        asked: What it reads then.
        openings: First words of each part; they belong to the text. The model ends each part.
        sentences: Most sentences of a part.
        frame: What the text becomes a document in, at the place of ``{}``.
    """

    form: str
    shared: str
    asked: str
    openings: tuple[str, ...]
    sentences: int
    frame: str = "{}"


def words(text: str) -> list[str]:
    """Entries of a list that is written with semicolons."""
    return [" ".join(entry.split()) for entry in text.split(";")]


WOMEN = words(
    "Anna; Clara; Emma; Grace; Ida; Kate; Mia; Olga; Rosa; Tina; Nora; Lucy; Eva; Alice; Julia; Hannah;"
    " Sophie; Martha; Ruth; Laura; Leila; Yuki; Maria; Mei; Priya; Elena; Ingrid; Nadia; Sara; Zoe; Amina;"
    " Rita; Helen; Irene; Paula"
)
MEN = words(
    "Ben; David; Frank; Henry; Jack; Leo; Noah; Paul; Sam; Victor; Max; Tom; Peter; George; Oscar; Felix;"
    " Simon; Daniel; Adam; Martin; Amir; Carlos; Ivan; Omar; Tariq; Kofi; Hugo; Jonas; Pablo; Arthur; Emil;"
    " Ravi; Luis; Walter; Ken"
)
LISTS = {
    "relative": words(
        "mother; father; sister; brother; grandmother; grandfather; aunt; uncle; cousin; neighbour;"
        " friend; teacher; son; daughter; wife; husband; boss; landlady; flatmate; niece; nephew;"
        " colleague"
    ),
    "item": words(
        "an umbrella; a kettle; a bicycle; a key; a pillow; a clock; a lamp; a spoon; a chair; a ladder;"
        " a mirror; a bucket; a broom; a candle; a needle; a hammer; a suitcase; a scarf; a glove; a"
        " button; a map; a notebook; a pencil; a stamp; a basket; a blanket; a towel; a comb; a"
        " toothbrush; a sponge; a toaster; a radio; a telephone; a camera; a watch; a ring; a coin; a"
        " wallet; a backpack; a raincoat; a boot; a sock; a hat; a belt; a zip; a sewing machine; an iron;"
        " a vacuum cleaner; a light bulb; a battery; a screwdriver; a rope; a tent; a torch; a compass; a"
        " saucepan; a frying pan; a knife; a fork; a plate; a cup; a bowl; a bottle; a jar; a tin opener;"
        " a corkscrew; a teapot; a tray; a napkin; a cutting board; a recipe; a calendar; a diary; a"
        " newspaper; a dictionary; a ticket; a garden hose; a spade; a rake; a flowerpot; a kite; a ball;"
        " a puzzle; a doll; a drum; a guitar; a violin; a whistle; a balloon; a birthday card; a present;"
        " a photograph; a pair of glasses; a pair of scissors; a hearing aid; a wheelchair; a walking"
        " stick; a thermometer; a shopping list; a shopping trolley; a receipt; a price tag; a"
        " library card; a passport; an alarm clock; a hairdryer"
    ),
    "fixture": words(
        "a fridge; an oven; a washing machine; a dustbin; a doorbell; a letterbox; a curtain; a carpet; a"
        " sofa; a bookshelf; a drawer; a cupboard; a bathtub; a tap; a light switch; a bus; a train; a"
        " tram; a taxi; a lorry; a boat; a bridge; a tunnel; a traffic light; a bench; a fountain; a"
        " fence; a gate; a greenhouse; a nest; a beehive; a swing; a piano; a lift; an escalator; a"
        " timetable; a wheelbarrow; a nail"
    ),
    "stuff": words(
        "bread; milk; butter; cheese; salt; sugar; honey; rice; soup; tea; coffee; jam; flour; chocolate;"
        " ice cream; porridge; olive oil; vinegar; mustard; soap; paper; glass; wool; cotton; wood; sand;"
        " snow; ice; rain; fog; wind; dust; smoke; rust; mud; water; sunlight; moonlight; shade; thunder;"
        " frost; music; silence; laughter; sleep; homework; money; luggage; furniture; rubbish; traffic;"
        " small talk; good advice"
    ),
    "things": words(
        "apples; pears; lemons; bananas; strawberries; cherries; potatoes; carrots; onions; tomatoes;"
        " mushrooms; peas; beans; eggs; noodles; pancakes; biscuits; sandwiches; pies; dumplings; roses;"
        " tulips; daisies; trees; leaves; mountains; rivers; lakes; clouds; stars; rainbows; puddles;"
        " shadows; birds; cats; dogs; horses; cows; sheep; hens; ducks; bees; ants; spiders; butterflies;"
        " snails; hedgehogs; mice; squirrels; foxes; owls; swans; frogs; fish; whales; holidays;"
        " birthdays; weddings; letters; stories; dreams; neighbours; friends; grandparents; children;"
        " babies; teachers; bakers; gardeners; nurses; drivers"
    ),
    "job": words(
        "a baker; a nurse; a bus driver; a postman; a librarian; a teacher; a carpenter; a plumber; a"
        " farmer; a cook; a waiter; a gardener; a cleaner; a tailor; a shoemaker; a hairdresser; a"
        " dentist; a vet; a firefighter; a fisherman; a pilot; a sailor; a shepherd; a beekeeper; a piano"
        " teacher; a painter; a bricklayer; an electrician; a watchmaker; a lifeguard; a caretaker; a shop"
        " assistant; a referee; a lighthouse keeper; a train conductor; a zookeeper; a street sweeper; a"
        " window cleaner; a midwife"
    ),
    "place": words(
        "the library; the bakery; the market; the park; the beach; the station; the school; the museum;"
        " the post office; the swimming pool; the playground; the hospital; the kitchen; the garden; the"
        " attic; the cellar; the bus stop; the airport; the harbour; the farm; the forest; the lake; the tea"
        " room; the cinema; the zoo; the town hall; the launderette; the balcony; the staircase; the"
        " waiting room; the campsite"
    ),
    "activity": words(
        "baking bread; riding a bicycle; planting flowers; reading a book; taking the bus; cooking soup;"
        " cleaning windows; writing letters; learning to swim; walking in the rain; feeding the birds;"
        " painting a wall; mending socks; playing chess; singing in a choir; going to bed early; getting"
        " up early; saving money; making the bed; doing the dishes; ironing shirts; waiting in a queue;"
        " moving house; packing a suitcase; learning a language; making new friends; saying sorry; telling"
        " stories; growing tomatoes; keeping a diary; sharing a room; visiting grandparents; looking after"
        " a cat; walking the dog; knitting a scarf; repairing a chair; sleeping in a tent; climbing a"
        " hill; picking apples; making jam; flying a kite; building a snowman; taking photographs;"
        " learning the piano; listening to the radio; dancing; fishing"
    ),
    "task": words(
        "keep bread fresh; clean a kettle; remove a stain from a shirt; wake up on time; fall asleep"
        " faster; save water at home; wrap a present; boil an egg; peel an onion without crying; sharpen a"
        " pencil; water plants while I am away; find a lost key; keep my feet warm; dry wet shoes; fold a"
        " shirt; fix a dripping tap; open a tight jar; carry heavy shopping; remember names; make a good"
        " cup of tea; choose a ripe melon; cook rice; make pancakes; hang a picture; change a light bulb;"
        " patch a bicycle tyre; get rid of ants; make a room feel cosy; talk to a shy person; thank a"
        " neighbour; say no politely; make a guest feel welcome; write a short letter; plan a picnic; pack"
        " for a weekend; stay cool in summer; keep a cat busy; teach a child to tie shoes; save money on"
        " food; use up old bread; keep flowers fresh; learn new words; stop being late; tidy a small"
        " kitchen; remember a shopping list; calm a crying baby; get over a cold; cheer up a friend"
    ),
    "problem": words(
        "I can't sleep; My bicycle makes a strange noise; I lost my keys; My bread never rises; My"
        " neighbour plays loud music; I forgot my friend's birthday; My shoes are wet; The milk smells"
        " sour; I missed my bus; My phone fell into the water; I burned the soup; I am always late; My cat"
        " doesn't eat; My son doesn't want to go to school; I have too many books; My plants are dying; I"
        " broke my aunt's cup; It is too hot in my room; My tea is too bitter; I am bored; I am nervous"
        " about my first day at work; I have a cold; My suitcase is too heavy; My socks always disappear;"
        " I spilled coffee on my shirt; The lift is broken; I have nothing to wear; My back hurts; I can't"
        " find my glasses; My dog is afraid of thunder; My friend is angry with me; I ate too much; There"
        " is a spider in my bathroom; My flat is very small; I don't know what to cook"
    ),
    "two": words(
        "a lake and a river; a cup and a mug; a cat and a dog; tea and coffee; a bus and a train; a house"
        " and a flat; a boot and a shoe; butter and cheese; a spoon and a fork; summer and winter; a town"
        " and a village; a hill and a mountain; a letter and a postcard; a bee and a wasp; a street and a"
        " path; a scarf and a shawl; fog and smoke; a jacket and a coat; a frog and a toad; jam and honey;"
        " a chair and a stool; a pen and a pencil; a friend and a neighbour; a ship and a boat; a lamp and"
        " a candle; an orange and a lemon; a potato and a carrot; a bag and a suitcase; a violin and a"
        " guitar; lunch and dinner; the sun and the moon; a cold and a flu"
    ),
    "occasion": words(
        "a rainy day; a long train journey; a hot afternoon; a cold evening; a birthday; a wedding; a"
        " picnic; a first day at school; a lazy Sunday; a power cut; a visit from my aunt; the first snow;"
        " a school trip; a move to another town; a day at the beach; a sick day in bed; a quiet morning; a"
        " long queue; a rainy holiday"
    ),
    "mood": words(
        "happy; tired; hungry; proud; nervous; bored; curious; lonely; grateful; surprised; in a hurry;"
        " worried"
    ),
    "food": words(
        "some bread; a sandwich; an apple; a bowl of soup; some chocolate; a cup of tea; a cake; some"
        " biscuits; a pancake; a bag of cherries; some cheese; a pot of jam; the last egg; some noodles; a"
        " birthday cake"
    ),
    "day": words("Monday; Tuesday; Wednesday; Thursday; Friday; Saturday; Sunday"),
    "season": words("spring; summer; autumn; winter"),
    "animal": words(
        "dog; cat; hen; rabbit; parrot; goat; donkey; hamster; pony; goose; duck; turtle; fox; mouse;"
        " crow; pig; horse; bear; frog"
    ),
}
LISTS["thing"] = [*LISTS["item"], *LISTS["fixture"]]
ASKED = {
    "what": (
        "What is {thing}?; What is {thing} for?; What is {thing} made of?; Who needs {thing}?; When do"
        " you use {thing}?; What is special about {thing}?; Where do people keep {thing}?; How do I clean"
        " {thing}?; How does {thing} work?; How do I choose {thing}?; What should I do with {thing} that"
        " is broken?; Can you describe {thing} in one sentence?; What do I need {thing} for?; Is {thing} a"
        " good present for my {relative}?"
    ),
    "stuff": (
        "What is {stuff}?; Where does {stuff} come from?; What can you do with {stuff}?; Why do people"
        " like {stuff}?; Tell me something about {stuff}.; What is good about {stuff}?; Can there be too"
        " much {stuff}?; What does {stuff} remind you of?"
    ),
    "things": (
        "What are {things}?; Why do people like {things}?; Tell me something about {things}.; What do"
        " {things} have in common?; Where do you find {things}?; What can I learn from {things}?; Why are"
        " {things} important?"
    ),
    "job": (
        "What does {job} do?; Why do we need {job}?; What does {job} need to know?; What is hard about"
        " being {job}?; What is nice about being {job}?; Where does {job} work?; My {relative} wants to be"
        " {job}. What do you think?"
    ),
    "place": (
        "What do people do at {place}?; What can you see at {place}?; Why do people go to {place}?; What"
        " should I take with me to {place}?; Who works at {place}?; I am waiting for my {relative} at"
        " {place}. What can I do?"
    ),
    "activity": (
        "Why do people enjoy {activity}?; Is {activity} difficult?; What do I need for {activity}?; How"
        " do I start with {activity}?; What is nice about {activity}?; My {relative} doesn't like"
        " {activity}. What can I do?; I feel {mood} today. Would {activity} help?"
    ),
    "task": (
        "How do I {task}?; What is the best way to {task}?; How can my {relative} {task}?; Can you tell"
        " me how to {task}?; Is it hard to {task}?"
    ),
    "problem": (
        "{problem}. What should I do?; {problem}. Can you help me?; {problem}. What would you do?;"
        " {problem}. Is that bad?"
    ),
    "two": ("What is the difference between {two}?; What do {two} have in common?"),
    "occasion": (
        "What can I do on {occasion}?; What should I prepare for {occasion}?; What do you say to a friend"
        " on {occasion}?; What is a good idea for {occasion}?; What is nice about {occasion}?"
    ),
    "person": (
        "What would be a good present for my {relative}?; My {relative} is {mood} today. What can I do?;"
        " How do I cheer up my {relative}?; What can I cook for my {relative}?; My {relative} is coming to"
        " visit. Any ideas?; What can I talk about with my {relative}?"
    ),
}
QUESTIONS = {form: words(patterns) for form, patterns in ASKED.items()}

STORY_BEGINS = words(
    "{name} is {mood} because; {name} went to {place} because; {name} needs {item} to; {name} likes"
    " {activity} because; When it rains, {name}; Every {day}, {name} and {her} {relative}; Before going to"
    " {place}, {name}; {name} found {item} at {place}, so {she}; {name} lost {item} on the way to {place}.;"
    " {name}'s {relative} gave {her} {item}, because; After {activity}, {name}; {name} wanted to buy {item},"
    " but; {name} bought {item} for {her} {relative}.; {name} is waiting at {place}, but; {name} and {her}"
    " {relative} are at {place}.; {name} forgot {item} at {place}.; {name} was {mood}, so {she}; {name}"
    " always carries {item} because; {name} doesn't like {activity} because; {name} wants to be {job}"
    " because; {name} works as {job}.; {name} asked {her} {relative} for {item}, because; This morning"
    " {name} saw a {animal} near {place}.; {name} has never liked {things}, because; On {occasion}, {name}"
    " likes to; {name} was tired of {activity}, so {she}; Last {day}, {name} broke {item}.; {name} keeps"
    " {item} in the kitchen because; {name} moved to a new town, and; {name} dreams of {activity} because;"
    " It was {day} morning, and {name}; {name} heard a noise near {place}.; {name} promised {her} {relative}"
    " to; {name} is learning about {things} because; {name} shared {food} with {her} {relative}, because;"
    " The {animal} followed {name} to {place}.; {name} has a {animal} that; {name}'s {animal} likes"
)
STORY_LINKS = words(
    "Then {she}; So {she}; In the evening, {she}; Now {she}; At last, {she}; The next day, {she}; {Her}"
    " {relative} said that; Since then, {she}; After that, {she}; Later, {she} told {her} {relative} that;"
    " {Her} {relative} was {mood} because; {She} was {mood} because; {She} thought that; {She} smiled"
    " because; {She} decided to; Next time, {she}; In the end, {she}; {She} did not know that; {She} took;"
    " {Her} {relative} brought; They; It was; But {her} {relative}"
)
SELF_BEGINS = words(
    "My {relative} always; I like {activity} because; I never forget {item} because; Yesterday at {place},"
    " I; I was {mood} today because; My favourite thing about {place} is; I don't like {activity} because;"
    " When I was a child, my {relative}; Today my {relative} and I; I keep {item} because; I bought {item}"
    " yesterday, because; Every {day}, I; I once saw a {animal} at {place}.; My {relative} gave me {item}.;"
    " I would like to be {job} because; I like {things} because; My {animal} always; On {occasion}, I like"
    " to; I am not good at {activity}, but; I wish I had {item}, because; I am at {place}, and; I can't find"
    " my {relative}'s present."
)
SELF_LINKS = words(
    "So I; Then I; I think that; My {relative} says that; Now I; It makes me; I hope that; But I; Tomorrow"
    " I; That is why I; I was {mood} because; We; At home, I; Sometimes I"
)
SAYING_BEGINS = words(
    "A good {relative} is someone who; You know that it is {day} when; People like {stuff} because; The"
    " best thing about {place} is; The problem with {thing} is that; {Things} are; Without {stuff}, people;"
    " {Activity} is good for you because; You need {item} when; If you lose {item}, you; {Thing} is useful"
    " because; {Thing} is made; {Thing} is; {Job} is someone who; {Stuff} is; {Stuff} comes from; If you are"
    " {mood}, you should; It is never too late for {activity}, because; Most people go to {place} to;"
    " Nothing is better on {occasion} than; The good thing about {item} is that it; Everybody who has {item}"
    " knows; You should never give {item} to; A {animal} is; Children love {things} because; In {season},"
    " people; In {season}, {things}; {Activity} takes time, but; The secret of {activity} is"
)
SAYING_LINKS = words(
    "But; That is why; It is also; So; For example,; However,; This means that; They; People"
)
LETTER_BEGINS = words(
    "Dear {name}, thank you for {item}. I; Dear {name}, I am writing to you from {place}. It; Dear {name},"
    " happy birthday! I hope; Dear {name}, I am sorry that I forgot {item} at {place}. I; Dear {name}, how"
    " are you? Yesterday, my {relative} and I; Dear neighbour, please; Dear {name}, I would like to invite"
    " you to {occasion}. We; Dear {name}, do you remember {place}? We; Dear {name}, the weather is; Dear"
    " {name}, my {relative} told me that you like {activity}. I; Dear {name}, I have good news:; Dear"
    " {name}, I lost {item} at {place}. If you find it, please"
)
LETTER_LINKS = words(
    "I hope; Please; My {relative}; See you; I miss; We will; Next {day}, we; Give my love to; Please"
    " bring; Thank you for"
)

TALE_BEGINS = words(
    "Once upon a time, there was a {beast} who; Once upon a time, there was a {beast} that lived near"
    " {place}.; There was once {job} who; One day, a {beast} met a {other} near {place}.; Long ago, a {beast}"
    " and a {other} lived; An old man had a {beast} that; An old woman and her {beast}; A {beast} once found"
    " {item} and; A little {beast} was {mood} because; The {beast} said to the {other} that; In a small town,"
    " there was {job} who; A {beast} tried {activity}, but"
)
TALE_LINKS = words(
    "One day, the {beast}; So the {beast}; Then the {beast}; In the end, the {beast}; The {other} said that;"
    " From that day on, the {beast}; But the {other}; The {beast} was {mood} because; Every evening, the"
    " {beast}; The {beast} and the {other}; Nobody knew that; The moral is that"
)
TALK_BEGINS = words(
    '"I am {mood}," said {name}, "because; "Look at that {beast}!" said {name}. "It; "I would like to buy'
    ' {item}," said {name}. "I; "Do you like {things}?" asked {name}. "I; "I have lost {item}," said {name}.'
    ' "I; "Let us go to {place}," said {name}, "because; "Today is {day}," said {name}. "We; "Why are you'
    ' {mood}?" asked {name}. "You; "Is that {item}?" asked {name}. "It; "I am going to {place}," said {name}.'
    ' "I; "What is that noise?" asked {name}. "It; "This is my {beast}," said {name}. "It; "I don\'t like'
    ' {activity}," said {name}. "It; "My {relative} gave me {item}," said {name}. "It; "I have never been to'
    ' {place}," said {name}. "Is it; "Good morning," said {name}. "I; "Can you help me?" asked {name}. "I'
)
TALK_LINKS = words(
    '"Then you should; "No," said {her} {relative}, "because; "Yes," said {her} {relative}. "I; "You are'
    ' right," said {her} {relative}. "It; "Never mind," said {her} {relative}. "We; "I know," said {her}'
    ' {relative}, "but; "That is why I; "But why?" asked {her} {relative}. "Is it; "I think," said {her}'
    ' {relative}, "that; "Maybe," said {her} {relative}. "You could; {Her} {relative} smiled and'
)


class Filler:
    """Fills patterns for one text: a name, its pronouns and two animals stay the same in all of them.

    Args:
        choice: Decides everything.
    """

    def __init__(self, choice: random.Random) -> None:
        self._choice = choice
        women = choice.random() < 0.5
        name = choice.choice(WOMEN if women else MEN)
        beast, other = choice.sample(LISTS["animal"], 2)
        self._fixed = {
            "name": name,
            "person": "woman" if women else "man",
            "she": "she" if women else "he",
            "her": "her" if women else "his",
            "beast": beast,
            "other": other,
        }

    def fill(self, pattern: str) -> str:
        """The pattern with an entry of its list in place of each name in braces; a capital is kept."""
        return re.sub(r"\{(\w+)\}", self._entry, pattern)

    def one(self, patterns: list[str]) -> str:
        """One of these patterns, filled."""
        return self.fill(self._choice.choice(patterns))

    def _entry(self, match: re.Match[str]) -> str:
        name = match[1].lower()
        entry = self._fixed.get(name) or self._choice.choice(LISTS[name])
        return entry[0].upper() + entry[1:] if match[1][0].isupper() else entry


def chain(form: str, request: str, begins: list[str], links: list[str], most: int):
    """A form whose texts are a beginning and up to `most` - 1 links, each a sentence that the model ends."""

    def make(filler: Filler, choice: random.Random) -> Prompt:
        count = choice.randint(1, most)
        openings = [filler.one(begins), *(filler.one(links) for _ in range(count - 1))]
        return Prompt(form, f"{USER}{filler.fill(request)}{ANSWER}", "", tuple(openings), 1)

    return make


ANSWER_BEGINS = {
    "what": ["", "It is", "You can", "People"],
    "stuff": ["", "{Stuff}", "It", "People"],
    "things": ["", "They", "People", "Some"],
    "job": ["", "They", "You"],
    "place": ["", "You can", "People", "There"],
    "activity": ["", "It", "You", "Many people"],
    "task": ["", "You can", "First,", "The easiest way is to", "Try to", "It helps to"],
    "problem": ["", "You could", "Try to", "It helps to", "Maybe", "You should"],
    "two": ["", "Both", "The difference is that", "They are"],
    "occasion": ["", "You could", "I would", "It is a good time to"],
    "person": ["", "You could", "I would", "Maybe", "Ask"],
}


def asked(form: str):
    """A form whose texts answer a question about a subject of this kind."""

    def make(filler: Filler, choice: random.Random) -> Prompt:
        question = filler.one(QUESTIONS[form])
        opening = (
            filler.one(ANSWER_BEGINS[form]) if form != "stuff" else choice.choice(["", "It", "People", "You"])
        )
        asks = "asked" if question.endswith("?") else "said"
        frame = choice.choice(
            [
                f'"{question}" {asks} {{name}}. "{{{{}}}}"',
                f'"{question}" {asks} {{name}}. {{Her}} {{relative}} said, "{{{{}}}}"',
                f'"{question}"\n"{{{{}}}}"',
                f'{{name}} asked {{her}} {{relative}}, "{question}"\n"{{{{}}}}"',
                f"{question} {{{{}}}}",
            ]
        )
        frame = re.sub(r"\{(name|Her|her|relative)\}", lambda match: filler.fill(match[0]), frame)
        return Prompt(form, GREETING, f"{question}{ANSWER}", (opening,), 2, frame.replace("{{}}", "{}"))

    return make


# How often each form comes, and what makes its prompts.
FORMS = [
    (40, chain("story", "Tell a short, simple story about a {person}.", STORY_BEGINS, STORY_LINKS, 3)),
    (
        15,
        chain(
            "self",
            "Write a few simple sentences about an ordinary day, in the first person.",
            SELF_BEGINS,
            SELF_LINKS,
            3,
        ),
    ),
    (12, chain("saying", "Say something simple and true.", SAYING_BEGINS, SAYING_LINKS, 2)),
    (7, chain("tale", "Tell a short, simple tale.", TALE_BEGINS, TALE_LINKS, 3)),
    (10, chain("talk", "Write a short, simple dialogue with a {person}.", TALK_BEGINS, TALK_LINKS, 3)),
    (5, chain("letter", "Write a short, simple letter.", LETTER_BEGINS, LETTER_LINKS, 3)),
    *(
        (weight, asked(form))
        for form, weight in zip(QUESTIONS, (6, 3, 3, 3, 3, 3, 3, 3, 2, 2, 3), strict=True)
    ),
]


def draw(seed: int, number: int) -> Prompt:
    """Prompt `number` of a seed."""
    choice = random.Random(f"{seed}/{number}")
    [make] = choice.choices([make for _, make in FORMS], [weight for weight, _ in FORMS])
    return make(Filler(choice), choice)
