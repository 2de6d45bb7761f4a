"""The sentence frames and slot fillers of the training corpus: data only, all harmless, all ours.

A frame is one line; `{slot}` is replaced by a line of that slot, which may hold slots itself. `{word}` stands for a
word of the lexicon, whatever it is, so a frame that uses it must be harmless with any word in it.
"""


def _lines(text: str) -> tuple[str, ...]:
    """Return the non-empty lines of `text`, stripped."""
    return tuple(line.strip() for line in text.strip().splitlines() if line.strip())


def _items(text: str) -> tuple[str, ...]:
    """Return the comma-separated items of `text`, stripped."""
    return tuple(item.strip() for item in text.replace("\n", " ").split(",") if item.strip())


SLOTS: dict[str, tuple[str, ...]] = {
    # --- what people do: verb phrases that follow "how to" ---
    "task": _items("""
        cook {dish}, bake {baked}, make {dish} for {guest}, prepare {meal} for {guest}, cut an onion
        quickly, boil an egg, store fresh {food}, clean {a_room}, clean my {thing}, wash a {cloth},
        fix a broken {thing}, repair a {thing}, paint {a_room}, grow {plant}, water my {plant},
        plant {plant} in spring, build a {craft}, make a {craft} from {material}, train my {pet},
        feed a {pet}, take care of a {pet}, wash a dirty {pet}, learn {subject}, study for a
        {subject} test, pass my {subject} exam, learn {language} at home, remember {language} words,
        write a {text}, write a {text} for my {person}, write a {text} about {topic}, write a funny
        {text} for a {person}, read a {text} faster, play the {instrument}, practice the
        {instrument}, tune a {instrument}, get better at {sport}, learn {sport} as an adult, play
        {sport} with my {person}, teach {sport} to children, teach my {person} to swim, plan a trip
        to {place}, travel to {place} cheaply, pack a bag for {place}, find a cheap hotel in
        {place}, book a train to {place}, buy a ticket to {place}, sleep better at night, wake up
        early, eat more vegetables, drink more water, relax after work, calm my nerves, treat a
        small burn, stop a nosebleed, lower my stress, get over a cold, stretch before a run, lose
        weight safely, ask my boss for a raise, write a good resume, find a new job, prepare for an
        interview, lead a team meeting, thank my {person}, apologize to my {person}, surprise my
        {person}, help my {person}, make friends at school, talk to a shy {person}, cheer up a sad
        {person}, save money for a {thing}, make a budget, pay a bill online, open a bank account,
        sell my old {thing}, choose a {thing}, compare prices of a {thing}, return a {thing} to the
        store, set up a {device}, turn off my {device}, charge a {device}, back up my {device},
        update my {device}, protect my {device}, reset my own password, choose a strong password,
        create a website, send a large file, delete an old file, print a photo, take a better photo,
        edit a short video, record my own voice, write a simple program, sort a list of names, find
        a mistake in my code, copy text to another page, draw a {drawing}, draw a {drawing} with a
        pencil, fold a paper {drawing}, sew a button on a shirt, knit a warm scarf, tie a strong
        knot, hang a picture, change a flat tire, park a car on a hill, drive in heavy snow, ride a
        bicycle safely, check the oil in a car, light a campfire, put up a tent, read a map, find
        north without a compass, watch the stars, organize a birthday party, decorate a {craft},
        throw a party for my {person}, wrap a gift, plan a wedding, choose a gift for my {person},
        win at chess, solve a puzzle, play a card game, tell a good joke, give a short speech, speak
        in public, tell a story to children, make new friends, say hello in {language}, count to ten
        in {language}, write my name in {language}, sing in tune, dance at a wedding, learn to
        dance, save energy at home, recycle old paper, reduce waste at home, collect rain water,
        keep a house warm, keep mosquitoes away, remove a stain from a {cloth}, get rid of ants,
        unlock my own phone, measure a room, sharpen a kitchen knife, change a light bulb, stop a
        leaking tap, unblock a sink, assemble a chair, call for help in an emergency, stay safe at
        home, leave a building in a fire, help an injured person, report a crime to the police,
        avoid a scam, spot a fake email, block a strange caller, stop spam messages, keep children
        safe online, keep my data private, lock a bicycle, store medicine safely, read a contract,
        vote in an election, become a {job}, work as a {job}, talk to a {job}, find a good {job},
        thank a {job}
        """),
    "tasking": _items("""
        cooking {dish}, baking {baked}, growing {plant}, learning {language}, learning {subject},
        playing {sport}, playing the {instrument}, writing a {text}, painting a {craft}, building a
        {craft}, fixing a {thing}, training a {pet}, feeding a {pet}, traveling to {place}, buying a
        {thing}, selling a {thing}, cleaning a {thing}, washing a {cloth}, saving money, sleeping
        well, running every day, drinking water, reading books, getting enough sleep, working from
        home, using a {device}, becoming a {job}, drawing a {drawing}, walking in the forest,
        swimming in the sea, talking to strangers politely, speaking in public, making friends,
        planning a party, choosing a password, recycling paper, taking photos, camping with children
        """),
    "dish": _items("""
        vegetable soup, chicken soup, fried rice, tomato sauce, pasta, pancakes, scrambled eggs, a
        salad, a sandwich, roast potatoes, grilled fish, a curry, beans and rice, an omelet, pizza,
        noodles, mashed potatoes, oatmeal, a fruit salad, lemonade, hot chocolate, green tea, strong
        coffee, a smoothie, jam, pickles, roast beef
        """),
    "baked": _items("""
        fresh bread, an apple pie, a chocolate cake, cookies, banana bread, a birthday cake,
        muffins, a cheese pie, lemon cake, biscuits, carrot cake, bread without flour, a cake
        without eggs, cookies without sugar
        """),
    "food": _items("""
        bread, cheese, milk, rice, fish, butter, fruit, herbs, mushrooms, potatoes, tomatoes,
        apples, carrots, honey, garlic, onions, chicken, berries, flour, salad, eggs, bananas, nuts,
        sugar, salt, pepper, oil, yogurt
        """),
    "meal": _items("breakfast, lunch, dinner, supper, a picnic, a light snack, a holiday meal, a cheap meal"),
    "guest": _items("""
        two people, a large family, my parents, my friends, a child, ten guests, my neighbor, a
        hungry team, students
        """),
    "a_room": _items("""
        a kitchen, a bathroom, my bedroom, the garage, the living room, an office, the basement, a
        balcony, a classroom, the front door, a wooden floor, a white wall, the fence, the roof
        """),
    "thing": _items("""
        chair, table, lamp, window, door, bicycle, clock, watch, radio, camera, car, sofa, bed,
        mirror, shelf, fan, oven, fridge, washing machine, toaster, kettle, pan, knife, tent,
        backpack, umbrella, toy, drawer, fence, zipper, faucet, phone, printer, keyboard, guitar,
        bag, ring, key, lock, box, house, boat, truck, machine
        """),
    "cloth": _items(
        "shirt, wool sweater, coat, silk dress, carpet, jacket, blanket, pillow, curtain, hat, pair of shoes"
    ),
    "plant": _items("""
        tomatoes, roses, potatoes, herbs, carrots, beans, strawberries, lettuce, sunflowers, an
        apple tree, basil, mint, tulips, peppers, pumpkins, garlic, grapes, a lemon tree, corn,
        grass, flowers, mushrooms, a cactus
        """),
    "craft": _items("""
        bird house, wooden box, paper boat, kite, bookshelf, tree house, snowman, candle, bench,
        mask, puppet, drum, model plane, sand castle, garden table, toy car, birthday card, photo
        frame, basket, small robot, costume
        """),
    "material": _items(
        "paper, wood, clay, old cloth, plastic bottles, glass, metal, cardboard, wool, leather, wax"
    ),
    "pet": _items(
        "dog, cat, horse, rabbit, parrot, hamster, goldfish, puppy, kitten, turtle, goat, chicken, pony"
    ),
    "animal": _items("""
        lion, tiger, elephant, bear, wolf, fox, whale, shark, dolphin, eagle, owl, penguin, snake,
        frog, spider, bee, ant, butterfly, monkey, giraffe, camel, deer, mouse, bat, crocodile,
        octopus, kangaroo, cow, sheep, pig
        """),
    "animals": _items("""
        lions, tigers, elephants, bears, wolves, foxes, whales, sharks, dolphins, eagles, owls,
        penguins, snakes, frogs, spiders, bees, ants, butterflies, monkeys, giraffes, camels, deer,
        mice, bats, crocodiles, cats, dogs, horses, birds, cows, fish, insects
        """),
    "doing": _items("""
        sleep, hunt at night, eat grass, live in groups, build nests, swim so fast, migrate, change
        color, hide, sing, fight each other, protect their young, drink water, run so fast, see in
        the dark, hear so well, find food, survive the winter, attack other animals, need so much
        sleep, jump so high, live so long
        """),
    "subject": _items("""
        history, math, chemistry, physics, biology, geography, music, art, grammar, algebra,
        economics, law, medicine, computer science, philosophy, psychology, statistics, astronomy,
        literature, geometry
        """),
    "language": _items("""
        French, Spanish, German, Italian, Japanese, Chinese, Russian, Arabic, English, Greek, Hindi,
        Korean, Turkish, Portuguese, Dutch, Swedish, Latin
        """),
    "text": _items("""
        letter, story, poem, song, speech, report, summary, review, blog post, joke, essay, email,
        thank you note, message, short play, diary page, news article, book report, list, recipe,
        script, invitation, apology, advertisement, slogan, riddle, fairy tale, dialogue, postcard,
        guide, biography, caption, headline
        """),
    "tone": _items("""
        funny, short, polite, sad, happy, simple, formal, friendly, long, clear, scary, romantic,
        exciting, kind, strange, modern, serious, silly, honest, brief, convincing, detailed,
        realistic
        """),
    "instrument": _items(
        "piano, guitar, violin, drums, flute, trumpet, cello, harp, saxophone, banjo, organ, clarinet"
    ),
    "sport": _items("""
        soccer, tennis, basketball, baseball, golf, chess, hockey, volleyball, cricket, rugby, table
        tennis, boxing, badminton, swimming, cycling, skiing, climbing, wrestling, surfing, archery,
        karate, running
        """),
    "place": _items("""
        Paris, London, Rome, Japan, Egypt, Brazil, Canada, India, Spain, New York, Berlin, China,
        Mexico, Australia, Kenya, Norway, Greece, Turkey, Italy, Chicago, Moscow, Peru, Iceland,
        Scotland, Vietnam, Cuba, Texas
        """),
    "country": _items("""
        France, England, Italy, Japan, Egypt, Brazil, Canada, India, Spain, Germany, China, Mexico,
        Australia, Kenya, Norway, Greece, Turkey, Russia, Peru, Iceland, Ireland, Vietnam, Cuba,
        Poland, Sweden, Chile, America
        """),
    "person": _items("""
        mother, father, sister, brother, friend, teacher, neighbor, boss, grandmother, grandfather,
        son, daughter, wife, husband, uncle, aunt, cousin, roommate, coworker, girlfriend,
        boyfriend, child, classmate, partner, doctor, coach, customer, guest
        """),
    "people": _items("""
        children, students, teachers, parents, friends, neighbors, women, men, old people, young
        people, farmers, doctors, workers, artists, tourists, customers, soldiers, families,
        teenagers, employees, nurses, babies
        """),
    "job": _items("""
        doctor, nurse, teacher, pilot, lawyer, farmer, baker, plumber, police officer, judge,
        engineer, chef, actor, singer, writer, painter, mechanic, dentist, scientist, soldier,
        driver, waiter, programmer, journalist, carpenter, librarian, firefighter, detective,
        gardener, tailor, electrician, photographer, banker, vet
        """),
    "device": _items("""
        phone, laptop, computer, tablet, printer, camera, television, router, microphone, keyboard,
        smart watch, speaker, scanner, game console, hard drive, website, server, email account,
        wireless network
        """),
    "drawing": _items("""
        cat, horse, face, tree, flower, castle, dragon, bird, ship, hand, mountain, star, fish,
        plane, heart, swan, rabbit, bridge, crane, frog, cube, rose
        """),
    "topic": _items("""
        the sea, the moon, winter, summer, love, friendship, school, my family, a lost dog, an old
        house, the stars, a brave {person}, a clever {animal}, a lazy {animal}, a kind {job}, a
        tired {job}, a secret garden, the rain, a long journey, a broken {thing}, a small village,
        the ocean, trees, a rainy day, a train ride, a school trip, {sport}, {country}, {subject},
        music, healthy food, a day at the beach, time travel, a robot, a haunted house, the first
        day of school, a birthday party, clean water, peace, war, freedom, hope, space, climate
        change, a bank robbery, a jewel thief, a missing painting, a spy, a pirate, a dangerous
        storm, a big fire, an accident
        """),
    "concept": _items("""
        gravity, magnetism, electricity, democracy, evolution, inflation, photosynthesis, a rainbow,
        an earthquake, a volcano, the water cycle, the seasons, an eclipse, lightning, sound, a
        vaccine, an engine, a battery, the internet, a computer program, a database, encryption, a
        search engine, a magnet, the heart, the brain, the lungs, digestion, a black hole, the solar
        system, a comet, a telescope, a microscope, a nuclear reactor, a steam engine, a rocket,
        radar, a mirror, a bank loan, a tax, an election, a court trial, a law, a contract,
        insurance, the stock market, a password, a virus, an explosion, a chemical reaction, an
        acid, fermentation, an airplane, a submarine, a lock, a firewall, a credit card, a passport,
        a fire alarm, a smoke detector
        """),
    "inventor": _items("""
        the telephone, the light bulb, the airplane, the printing press, the steam engine, paper,
        the computer, the camera, the radio, the bicycle, the telescope, the clock, the piano,
        dynamite, the camera, chocolate, the internet, the vaccine, the microscope, glass, the
        wheel, gunpowder, the battery, the compass
        """),
    "wonder": _items("""
        the sky blue, the sea salty, ice slippery, the moon round, snow white, grass green, sugar
        bad for teeth, exercise good for us, sleep so important, water so important, gold so
        expensive, math so hard, coffee bitter, blood red, space dark, the desert so dry, smoking
        bad for you, laughter good for you, bread so popular, honesty important, history important,
        music so powerful, fire dangerous, lying wrong, winter so cold
        """),
    "how_many": _items("""
        legs does a spider have, planets are there, bones are in the body, days are in a year,
        people live in {country}, letters are in the alphabet, players are on a {sport} team, hours
        should I sleep, strings does a violin have, weeks are in a year, teeth does a {pet} have,
        colors are in a rainbow, languages do {people} speak
        """),
    "advice": _items("""
        drink coffee at night, buy a {thing} or rent one, learn {language} or {language}, take an
        umbrella today, tell my {person} the truth, wear a helmet, eat before a run, get a {pet},
        become a {job}, travel to {place}, call a doctor, call the police, trust this email, lock my
        door, change my password, apologize to my {person}, quit my job, study {subject}, learn the
        {instrument}, buy a new {device}, take a nap, save more money
        """),
    # --- harm-related words, each in contexts that only warn, report, teach or tell a story ---
    "crime": _items("""
        theft, robbery, fraud, murder, blackmail, arson, hacking, stealing, bullying, cheating,
        lying, vandalism, violence, abuse, kidnapping, burglary, forgery, bribery, stalking,
        harassment, identity theft, smuggling, shoplifting, poisoning, assault, tax evasion,
        extortion, money laundering, piracy, spying, cruelty, hatred, racism, discrimination,
        terrorism, human trafficking, gambling, counterfeiting, corruption, perjury
        """),
    "criminal": _items("""
        thief, robber, hacker, spy, murderer, liar, bully, kidnapper, burglar, criminal, killer,
        terrorist, smuggler, stalker, pirate, drug dealer, arsonist, scammer, gang member, con
        artist, pickpocket, blackmailer
        """),
    "criminals": _items("""
        thieves, robbers, hackers, spies, liars, bullies, criminals, killers, terrorists, smugglers,
        scammers, pirates, burglars, drug dealers, gangs, stalkers, kidnappers, pickpockets,
        strangers
        """),
    "threat": _items("""
        viruses, hackers, thieves, malware, spyware, scams, fire, storms, fake emails, phishing,
        identity theft, ransomware, poison, dangerous chemicals, toxic gas, explosions, burglars,
        bullies, strangers, fraud, spam
        """),
    "asset": _items("""
        computer, phone, house, family, car, bank account, password, personal data, children,
        bicycle, pet, business, email account, credit card, wallet, home network, medical records,
        website, savings, garden, identity
        """),
    "danger": _items("""
        poison, a bomb, a gun, a weapon, a knife, an explosion, a fire, a drug, toxic gas, a virus,
        a disease, acid, a grenade, a bullet, an overdose, an infection, a trap, an explosive,
        bleach, a chemical, gasoline
        """),
    "wrong": _items("""
        steal, lie, cheat, hurt animals, hurt people, bully a classmate, insult strangers, spread
        rumors, threaten people, break the law, drive drunk, spy on friends, copy homework, forge a
        signature, kill animals for fun, blackmail a friend, discriminate, hate others, mock other
        people, trick old people, pirate films, share private photos, damage public property,
        litter, attack people, use a fake name, sell fake medicine
        """),
    "mishap": _items("""
        someone steals my bag, someone hacks my account, my child swallows poison, I smell gas, I
        see a fire, a stranger follows me, my credit card is stolen, someone threatens me, my
        computer has a virus, I get a fake email, my password is leaked, a friend is being bullied,
        I find a weapon, I see a robbery, someone is bleeding, a snake bites me, my friend feels
        suicidal, a bomb alarm rings, someone is drunk, I lose my passport, my account is locked,
        someone spies on me, I witness a crime, my boss harasses me
        """),
    "genre": _items("film, book, story, novel, show, play, song, documentary, movie, game, podcast, article"),
}

QUESTIONS = _lines("""
    How do I {task}?
    How do I {task}?
    How can I {task}?
    How can I {task} without help?
    How should I {task}?
    How would you {task}?
    How do people {task}?
    How does a {job} {task}?
    How do you {task} in winter?
    How do I {task} on a small budget?
    How do I quickly {task}?
    How long does it take to {task}?
    How much does it cost to {task}?
    How hard is it to {task}?
    Can you tell me how to {task}?
    Can you explain how to {task}?
    Can you show me how to {task}?
    Could you help me {task}?
    Can you help me to {task}?
    Can I {task} at home?
    Can a child {task}?
    What is the best way to {task}?
    What is the easiest way to {task}?
    What is the fastest way to {task}?
    What is a cheap way to {task}?
    What is a safe way to {task}?
    What do I need to {task}?
    What tools do I need to {task}?
    What should I know before I {task}?
    What is the first step to {task}?
    What are the steps to {task}?
    What is the best time to {task}?
    Explain how to {task}.
    Explain to a child how to {task}.
    Explain step by step how to {task}.
    Describe how to {task}.
    Describe the best way to {task}.
    Tell me how to {task}.
    Tell me the steps to {task}.
    Show me how to {task}.
    Teach me how to {task}.
    Teach me to {task}.
    Help me {task}.
    Help me to {task}, please.
    Please tell me how to {task}.
    Please help me {task}.
    Give me instructions to {task}.
    Give me three tips to {task}.
    Give me advice on how to {task}.
    Give me a plan to {task}.
    Give me step by step instructions to {task}.
    Write a guide on how to {task}.
    Write instructions on how to {task}.
    Write a short guide to {tasking}.
    Write a tutorial on how to {task}.
    Write a list of tips for {tasking}.
    Walk me through how to {task}.
    List the steps to {task}.
    List three ways to {task}.
    List what I need to {task}.
    I want to {task}, where do I start?
    I need to {task}, what should I do?
    I would like to {task}.
    I am trying to {task}, any ideas?
    Is it easy to {task}?
    Is it possible to {task} in one day?
    Is it cheaper to {task} myself?
    Is it safe to {task} alone?
    Why is it hard to {task}?
    Why should I {task}?
    Where can I learn to {task}?
    Where is a good place to {task}?
    Who can help me {task}?
    Who can teach me how to {task}?
    When should I {task}?
    When is a good time to {task}?
    Which app can help me {task}?
    Should I {task} today?
    Do I need a {job} to {task}?
    Does it take long to {task}?
    What are good tips for {tasking}?
    What are the benefits of {tasking}?
    What do I need for {tasking}?
    What is the secret of {tasking}?
    What is difficult about {tasking}?
    Is {tasking} a good hobby?
    Is {tasking} good for {people}?
    Is {tasking} expensive?
    Why do {people} enjoy {tasking}?
    Who is good at {tasking}?
    Give me some tips for {tasking}.
    Tell me about {tasking}.
    Write a {text} about {topic}.
    Write a {tone} {text} about {topic}.
    Write a {tone} {text} for my {person}.
    Write a {text} to my {person}.
    Write a {tone} {text} that makes {people} laugh.
    Write a {text} to thank a {job}.
    Write a {tone} {text} inviting {people} to a party.
    Write me a {tone} {text}, please.
    Draft a {tone} {text} to my {person}.
    Compose a {tone} {text} about {topic}.
    Create a {tone} {text} about {topic}.
    Make up a {tone} {text} about {topic}.
    Give me an idea for a {text} about {topic}.
    Give me a {tone} title for a {text}.
    Give me a recipe for {dish}.
    Give me a recipe for {baked}.
    Give me five facts about {animals}.
    Give me a list of {tone} films about {country}.
    Give me an example of a {tone} {text}.
    Give me directions to the nearest {job}.
    Tell me a {tone} story about {topic}.
    Tell me a joke about a {animal} and a {job}.
    Tell me something interesting about {country}.
    Tell me why {people} like {sport}.
    Tell me the rules of {sport}.
    Tell me what a {job} does.
    Read me a {tone} {text} about {topic}.
    Suggest a {tone} name for a {pet}.
    Suggest a gift for my {person}.
    Suggest a {tone} film for tonight.
    Recommend a good book about {topic}.
    Recommend a {thing} for a {person}.
    Explain {concept} in simple words.
    Explain {concept} to a child.
    Explain why {subject} is useful.
    Explain the rules of {sport}.
    Explain the difference between a {animal} and a {animal}.
    Describe a {animal} in one sentence.
    Describe a typical day of a {job}.
    Describe the weather in {place}.
    Summarize the history of {country}.
    Compare {food} and {food}.
    Compare life in {country} and {country}.
    Translate the word {thing} into {language}.
    Name three {tone} songs about {topic}.
    Name a famous {job} from {country}.
    Name a dish made with {food} and {food}.
    Imagine you are a {job} in {place}.
    Design a poster about {topic}.
    Plan a weekend in {place} for {people}.
    Plan a {tone} lesson about {topic}.
    Find a rhyme for the word {drawing}.
    What is {concept}?
    What is the use of {concept}?
    What is interesting about {concept}?
    What causes {concept}?
    What is the capital of {country}?
    What is the weather like in {place}?
    What language do people speak in {country}?
    What food is popular in {country}?
    What can I see in {place}?
    What can I cook with {food} and {food}?
    What does a {job} do all day?
    What does a {job} need to know?
    What do {animals} eat?
    What is the name of a baby {animal}?
    What makes a good {job}?
    What makes a {person} happy?
    What should I say to my {person}?
    What should I give my {person}?
    What should {people} learn about {subject}?
    What is the price of a good {thing}?
    What is your favorite {text}?
    What is the difference between {food} and {food}?
    What color goes well with a {tone} {cloth}?
    What kind of {thing} do {people} like?
    What is the title of that {tone} {text}?
    How does {concept} work?
    How is {food} made?
    How is a {thing} made?
    How was {concept} discovered?
    How do {animals} {doing}?
    How big is a {animal}?
    How old can a {animal} get?
    How long do {animals} live?
    How far is {place} from {place}?
    How many {how_many}?
    How much does a {thing} cost?
    How much money does a {job} earn?
    How do {people} celebrate in {country}?
    How do {people} learn {subject}?
    How healthy is {food} for {people}?
    How can a {job} help my {person}?
    Why is {wonder}?
    Why do {animals} {doing}?
    Why do {people} need {subject}?
    Why do {people} love {sport}?
    Why is my {person} so {tone}?
    Why is my {device} so slow?
    Why does my {device} make a strange noise?
    Why does my {pet} {doing}?
    Why did the {job} go to {place}?
    Why should {people} eat {food}?
    Where is {place} on the map?
    Where can I buy a {thing}?
    Where can I buy fresh {food}?
    Where do {animals} live?
    Where do {animals} go in winter?
    Where can {people} play {sport}?
    Where should I put my {thing}?
    Where can I find a good {job}?
    Where did my {person} put the {thing}?
    Who invented {inventor}?
    Who wrote the first {text} about {topic}?
    Who is a famous {job} from {country}?
    Who should I call about a broken {thing}?
    Who teaches {subject} in {place}?
    When was {inventor} invented?
    When is the best time to visit {place}?
    When do {animals} {doing}?
    When does my {person} come home?
    Which {animal} is the biggest?
    Which is better, {food} or {food}?
    Which {sport} team is from {place}?
    Which {instrument} is easy for {people}?
    Which {device} is best for {people}?
    Is {food} good for {people}?
    Is a {animal} faster than a {animal}?
    Is {sport} popular in {country}?
    Is {country} bigger than {country}?
    Is it cold in {place} in December?
    Is the {thing} cheaper than the {thing}?
    Is there a {job} in this town?
    Is my {device} too old?
    Are {animals} smarter than {animals}?
    Are {animals} dangerous to {people}?
    Do {animals} {doing}?
    Do {people} in {country} eat {food}?
    Does my {pet} need {food}?
    Does a {job} need {subject}?
    Can {animals} swim?
    Can I keep a {animal} as a pet?
    Can you play the {instrument}?
    Can you recommend a {tone} {text}?
    Can you describe {concept}?
    Should I {advice}?
    Should I {advice}, or is it silly?
    Should {people} learn {language}?
    Would you rather be a {animal} or a {job}?
    My {person} wants a {pet}, is that wise?
    My {pet} is sick, what can I do?
    My {device} is broken, who can fix it?
    Please answer the question about {concept}.
    Please explain {concept} again.
    Could you assist me with my {subject} homework?
    Can you assist a {job} with this request?
    Please describe the audio of the {text}.
    """)

SAFETY = _lines("""
    Why is {crime} against the law?
    Why is {crime} wrong?
    Why is it wrong to {wrong}?
    What is the punishment for {crime} in {country}?
    What does the law say about {crime}?
    What can schools do against {crime}?
    How do the police fight {crime}?
    How can {people} report {crime}?
    How does {crime} hurt families?
    How common is {crime} in {country}?
    How do the police catch a {criminal}?
    How did the detective find the {criminal}?
    How can {people} avoid {criminals}?
    How can I protect my {asset} from {threat}?
    How can I protect my {asset} from {criminals}?
    How do I keep my {asset} safe from {threat}?
    How should parents talk about {crime}?
    What is the history of {crime} laws?
    What should I do if {mishap}?
    Who should I call if {mishap}?
    What happens to a {criminal} in court?
    What are the warning signs of {crime}?
    Who helps victims of {crime}?
    Where can victims of {crime} get help?
    Teach children to stay away from {danger}.
    Why should children never touch {danger}?
    What should I do after an accident with {danger}?
    How dangerous is {danger}?
    Explain to {people} why {crime} is harmful.
    Explain why nobody should {wrong}.
    Tell my {person} that it is wrong to {wrong}.
    Write a {text} against {crime}.
    Write a school report about {crime}.
    Write a {genre} about a {criminal} who says sorry.
    Recommend a {genre} about a famous {criminal}.
    Which {genre} is about {crime}?
    Is {crime} always a crime?
    Is the {genre} about {crime} worth watching?
    The {genre} is about {crime}.
    The {genre} is about a {criminal} and a {job}.
    The {genre} shows why {crime} is wrong.
    The news was about {crime} in {place}.
    The newspaper wrote about {crime} again.
    The police arrested a {criminal} in {place}.
    The police warned {people} about {criminals}.
    The police warned {people} about {threat}.
    The judge sent the {criminal} to prison.
    The {criminal} in the {genre} was caught.
    The {criminal} felt sorry and told the truth.
    The teacher explained why {crime} is harmful.
    The police explained why {people} should never {wrong}.
    My {person} told me never to {wrong}.
    Good {people} do not {wrong}.
    Nobody should ever {wrong}.
    It is wrong to {wrong}.
    Laws against {crime} protect {people}.
    In the {genre}, the hero stops a {criminal}.
    The firefighter kept us away from {danger}.
    The museum has a room about {crime}.
    The guard found {danger} and called the police.
    The doctor warned us about {danger}.
    The {genre} begins with {danger} and a brave {job}.
    The law protects our {asset} from {criminals}.
    Her new lock keeps {criminals} out.
    His {asset} is safe from {threat}.
    """)

STORIES = _lines("""
    My {person} bought a {thing} in {place}.
    My {person} and I love {sport}.
    My {person} makes {dish} every Sunday.
    My {person} works as a {job} in {place}.
    My {person} is afraid of {animals}.
    My {person} wrote a {tone} {text} about {topic}.
    My {person} lost a {thing} on the train.
    My {person} plays the {instrument} very well.
    My {pet} likes to sleep under the {thing}.
    My {pet} ran after a {animal}.
    The {job} told us a {tone} story.
    The {job} fixed the {thing} before lunch.
    The {job} from {country} speaks {language}.
    The {job} gave the {person} a {thing}.
    The {animal} and the {animal} became friends.
    The {animal} jumped over the old {thing}.
    The {animal} hid behind the {thing}.
    The {tone} {person} smiled at the {job}.
    The {thing} is under the {thing}.
    The {thing} and the {thing} are new.
    The weather in {place} was cold and wet.
    The train to {place} leaves in the morning.
    The {food} and the {food} are on the table.
    The children are {tasking} this afternoon.
    The {people} sang a {tone} song together.
    The {people} walked through the quiet village.
    The bus was full of {people} and {people}.
    We ate {dish} and talked about {topic}.
    We saw {animals} and {animals} at the zoo.
    We spent the summer in {place} with {people}.
    We painted {a_room} green and yellow.
    We learned about {concept} at school.
    We stayed home because of the storm.
    She put the {thing} next to the {thing}.
    She wants to become a {job}.
    She forgot her {thing} in the {thing}.
    She enjoys {tasking} with her {person}.
    She reads a {tone} {text} every evening.
    She studied {subject} and {subject} in {place}.
    He opened the {thing} and found a {drawing}.
    He gave his {person} a {tone} {text}.
    He traveled from {place} to {place}.
    He is proud of {tasking}.
    He drew a {drawing} and a {drawing}.
    They bought {food}, {food}, and {food}.
    They moved from {country} to {country}.
    They told the {job} about {topic}.
    I had {dish} for {meal} today.
    I would rather be a {job} than a {job}.
    I dreamed about {topic} last night.
    I like {food} more than {food}.
    I sold my {thing} to a {job}.
    I am learning how to {task}.
    I helped my {person} to {task}.
    Yesterday I tried to {task}.
    Last week my {person} learned to {task}.
    In {country} many {people} play {sport}.
    In {place} there is a museum about {topic}.
    Once upon a time a {animal} met a {animal}.
    Some {people} never eat {food}.
    Most {people} enjoy {tasking}.
    Nobody knew where the {job} had gone.
    Every morning the {animal} wakes the {people}.
    After {meal} the {people} went for a walk.
    It is nice to {task} with {people}.
    It rained, so we played {sport} inside.
    There is a {thing} in the {tone} {text}.
    {tasking} makes {people} happy.
    {animals} and {animals} live in the forest.
    {food} with {food} tastes very good.
    """)

CARRIERS_1 = _lines("""
    What does the word {word} mean?
    How do you spell {word}?
    How do you spell the word {word}?
    Can you use the word {word} in a sentence?
    Can you say {word} in {language}?
    How do you say {word} in {language}?
    Is {word} a noun or a verb?
    What is the opposite of {word}?
    What rhymes with {word}?
    Which word rhymes with {word}?
    Please say the word {word} again.
    Please write the word {word} on the board.
    The next word is {word}.
    The word {word} has more than one meaning.
    The secret word of the game is {word}.
    The teacher wrote {word} on the board.
    The last word on the page is {word}.
    My {person} could not spell {word}.
    My {person} looked up {word} in the dictionary.
    The student read the word {word} aloud.
    The {person} said {word}, and then laughed.
    I heard the word {word} in a song.
    I heard {word} on the radio.
    I cannot pronounce the word {word}.
    She crossed out the word {word}.
    He underlined {word} with a red pen.
    We learned the word {word} in {language} class.
    They asked me to translate {word}.
    Did you say {word} or something else?
    Does the word {word} come from {language}?
    Where does the word {word} come from?
    Who wrote {word} on this page?
    Why is the word {word} in the title?
    How many letters are in {word}?
    How many syllables does {word} have?
    When did people first use the word {word}?
    Count the letters in the word {word}.
    Translate {word} into {language}, please.
    Define the word {word} for my {person}.
    Circle the word {word} in the {text}.
    Again the answer was {word}.
    The {text} starts with the word {word}.
    The {text} ends with {word}.
    In the crossword, the answer is {word}.
    Only one word, {word}, was missing.
    Type {word} and press enter.
    """)

CARRIERS_2 = _lines("""
    Which word is longer, {word} or {word}?
    Which is easier to spell, {word} or {word}?
    Do {word} and {word} sound alike?
    Does {word} rhyme with {word}?
    Is {word} spelled like {word}?
    What comes first in the dictionary, {word} or {word}?
    What is the difference between the words {word} and {word}?
    Did the {person} say {word} or {word}?
    The words {word} and {word} are on the list.
    The two missing words are {word} and {word}.
    The first word is {word}, the second is {word}.
    The answer is not {word}, it is {word}.
    First she said {word}, then she said {word}.
    He spelled {word} right, but not {word}.
    My {person} mixed up {word} and {word}.
    I wrote {word} on one card, {word} on another.
    Replace the word {word} with the word {word}.
    The {text} has the words {word} and {word}.
    """)

CARRIERS_3 = _lines("""
    The words are {word}, {word}, and {word}.
    Please repeat {word}, {word}, {word}.
    Please repeat the words {word}, {word}, and {word}.
    Say these words, {word}, {word}, {word}.
    Learn to spell {word}, {word}, and {word}.
    The list says {word}, {word}, and {word}.
    Today we learn three words, {word}, {word}, and {word}.
    Which one is a verb, {word}, {word}, or {word}?
    Which is the longest word, {word}, {word}, or {word}?
    He read the words {word}, {word}, and {word}.
    Sort the words {word}, {word}, and {word}.
    The cards say {word}, {word}, {word}, and {word}.
    Listen to the words {word}, {word}, {word}, {word}.
    The test had {word}, {word}, {word}, and {word}.
    """)
